/**
 * The shapes that come over the wire, for editors and type checkers; nothing here runs.
 *
 * @typedef {"accepted"|"scheduled"|"queued"|"running"|"waiting"|"retrying"|"cancelling"|"compensating"
 *   |"succeeded"|"failed"|"cancelled"|"expired"} Status
 * @typedef {{done: number, total: number|null, fraction: number|null, message: string|null}} Progress
 * @typedef {{type: string, message: string, attempt?: number, retryable?: boolean}} JobError
 *
 * @typedef {object} Job
 * @property {string} id
 * @property {string} type
 * @property {Status} status
 * @property {string|null} owner
 * @property {string[]} channels
 * @property {string} pool
 * @property {string} priority
 * @property {Progress|null} progress
 * @property {number} run
 * @property {number} attempt
 * @property {number} max_attempts
 * @property {number} version  grows with every change; the newest alone is the state
 * @property {string} created_at
 * @property {string|null} queued_at
 * @property {string|null} started_at
 * @property {string|null} finished_at
 * @property {string|null} run_after
 * @property {string|null} expires_at
 * @property {unknown} result
 * @property {string|null} result_url  set instead of `result` when it is over 16 KiB
 * @property {JobError|null} error
 * @property {{name: string, status: string}[]} [steps]  of a saga, in the order they began
 * @property {string} [step]  the step that changed last
 * @property {"failed"|"cancelled"} [ending]  its steps are to be undone, then it ends so
 * @property {string} [parent]  of a child
 * @property {string|null} callback_url
 * @property {string|null} trace_id
 * @property {unknown} [input]  only from GET /v1/jobs/{id}
 * @property {object[]} [attempts]  only from GET /v1/jobs/{id}
 *
 * @typedef {{id: string, type: string, time: string, data: Job}} CloudEvent
 * @typedef {{offset: number, event: CloudEvent}} Publication
 * @typedef {{pointer: string, detail: string}} FieldError
 */
export {};
