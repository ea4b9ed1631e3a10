/** The gateway's HTTP interface: one place that adds the key, reads problem documents and knows the limits. */

/** @typedef {import("./types.js").Job} Job */
/** @typedef {import("./types.js").FieldError} FieldError */

export const MAX_INPUT_BYTES = 256 * 1024;
const TIMEOUT_MS = 20_000;
const MAX_LOG_PAGES = 4;

/** What the server refused, from RFC 9457 `application/problem+json`, or what kept us from asking (`status` 0). */
export class Problem extends Error {
  /**
   * @param {number} status @param {string} title @param {string} [detail]
   * @param {FieldError[]} [errors] @param {number|null} [retryAfter] seconds
   */
  constructor(status, title, detail = "", errors = [], retryAfter = null) {
    super(detail || title);
    this.name = "Problem";
    this.status = status;
    this.title = title;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }

  /** The key is not, or no longer, good. */
  get unauthenticated() {
    return this.status === 401;
  }
}

/** @param {Response} response @returns {Promise<Problem>} */
async function problemOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  const body = await response.json().catch(() => ({})); // a proxy answers in HTML; the status says enough
  const errors = Array.isArray(body.errors) ? body.errors : [];
  const title = typeof body.title === "string" ? body.title : `The server answered ${response.status}`;
  return new Problem(response.status, title, typeof body.detail === "string" ? body.detail : "", errors, retryAfter);
}

/** @param {unknown} error @returns {Problem} */
function unreachable(error) {
  const late = error instanceof DOMException && error.name === "TimeoutError";
  return new Problem(0, late ? "The gateway did not answer in time" : "The gateway cannot be reached");
}

export class Api {
  /** @param {string} key */
  constructor(key) {
    this.key = key;
  }

  /**
   * @param {string} path @param {{method?: string, body?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
   * @returns {Promise<Response>} @throws {Problem}
   */
  async fetch(path, { method = "GET", body, headers = {}, signal } = {}) {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    let response;
    try {
      response = await fetch(path, {
        method,
        body,
        headers: {
          Authorization: `Bearer ${this.key}`,
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
          ...headers,
        },
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
        cache: "no-store",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw unreachable(error);
    }
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  /**
   * A subscriber token for the WebSocket: it may read everything of the tenant, and write nothing.
   * @returns {Promise<string>}
   */
  async mintToken() {
    const caps = [{ channels: ["*"], match: "wildcard", allow: ["sub", "hst", "prs"] }];
    const body = JSON.stringify({ sub: "dashboard", caps, ttl: 3600 });
    return (await (await this.fetch("/v1/tokens", { method: "POST", body })).json()).token;
  }

  /**
   * @param {{limit?: number, cursor?: string|null}} [page]
   * @returns {Promise<{jobs: Job[], next: string|null}>}
   */
  async listJobs({ limit = 50, cursor = null } = {}) {
    const query = new URLSearchParams({ limit: String(limit), ...(cursor ? { cursor } : {}) });
    const body = await (await this.fetch(`/v1/jobs?${query}`)).json();
    return { jobs: body.items, next: body.next_cursor };
  }

  /** @param {string} id @param {AbortSignal} [signal] @returns {Promise<Job>} */
  async getJob(id, signal) {
    return (await this.fetch(jobPath(id), { signal })).json();
  }

  /**
   * The log of a job: all of it, as the server keeps not many more events than fit into two answers.
   * @param {string} id @param {AbortSignal} [signal] @returns {Promise<import("./types.js").CloudEvent[]>}
   */
  async getEvents(id, signal) {
    /** @type {import("./types.js").CloudEvent[]} */
    const log = [];
    let since = 0;
    for (let page = 0; page < MAX_LOG_PAGES; page += 1) {
      const body = await (await this.fetch(`${jobPath(id)}/events?since=${since}`, { signal })).json();
      log.push(...body.events.map((/** @type {import("./types.js").Publication} */ each) => each.event));
      since = body.events[body.events.length - 1]?.offset ?? body.offset;
      if (since >= body.offset) break;
    }
    return log;
  }

  /** @param {string} body @param {string} idempotencyKey @returns {Promise<Job>} */
  async submit(body, idempotencyKey) {
    const headers = { "Idempotency-Key": `"${idempotencyKey}"` };
    return (await this.fetch("/v1/jobs", { method: "POST", body, headers })).json();
  }

  /** @param {string} id @param {"cancel"|"retry"} action @returns {Promise<void>} */
  async act(id, action) {
    await this.fetch(`${jobPath(id)}/${action}`, { method: "POST" });
  }

  /**
   * What a job's own `result_url` or an attachment's `url` points to. The key goes to our own origin only.
   * @param {string} url @param {AbortSignal} [signal] @returns {Promise<Response>}
   */
  async open(url, signal) {
    const target = new URL(url, location.origin);
    if (target.origin !== location.origin) throw new Problem(0, "This address is on another host");
    return this.fetch(target.pathname + target.search, { signal });
  }
}

/** @param {string} id */
const jobPath = (id) => `/v1/jobs/${encodeURIComponent(id)}`;
