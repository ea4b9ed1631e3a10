/** What each job status is called, how it is coloured, and which filter it falls under. */

/** @typedef {import("./types.js").Status} Status */
/** @typedef {"idle"|"busy"|"wait"|"good"|"bad"|"gone"} Tone */

/** @type {Record<Status, {label: string, tone: Tone, group: string}>} */
const STATUSES = {
  accepted: { label: "Accepted", tone: "idle", group: "queued" },
  scheduled: { label: "Scheduled", tone: "idle", group: "queued" },
  queued: { label: "Queued", tone: "idle", group: "queued" },
  running: { label: "Running", tone: "busy", group: "running" },
  waiting: { label: "Waiting", tone: "busy", group: "running" },
  retrying: { label: "Retrying", tone: "wait", group: "retrying" },
  cancelling: { label: "Cancelling", tone: "wait", group: "running" },
  compensating: { label: "Compensating", tone: "wait", group: "running" },
  succeeded: { label: "Succeeded", tone: "good", group: "succeeded" },
  failed: { label: "Failed", tone: "bad", group: "failed" },
  cancelled: { label: "Cancelled", tone: "gone", group: "cancelled" },
  expired: { label: "Expired", tone: "gone", group: "cancelled" },
};

const ENDS = new Set(["succeeded", "failed", "cancelled", "expired"]);

/** The filters above the list, in the order in which a job passes through them. */
export const GROUPS = [
  { id: "all", label: "All" },
  { id: "queued", label: "Queued" },
  { id: "running", label: "Running" },
  { id: "retrying", label: "Retrying" },
  { id: "succeeded", label: "Succeeded" },
  { id: "failed", label: "Failed" },
  { id: "cancelled", label: "Cancelled" },
];

/**
 * A status this page does not know (a newer server) is shown by its own name.
 * @param {string} status
 * @returns {{label: string, tone: Tone, group: string}}
 */
export function describe(status) {
  return STATUSES[/** @type {Status} */ (status)] ?? { label: status, tone: "idle", group: "queued" };
}

/** @param {string} status */
export const ended = (status) => ENDS.has(status);
