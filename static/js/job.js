/** One job: loaded over HTTP, kept up to date from its own channel. */

import { Problem } from "./api.js";
import { h } from "./dom.js";
import { JobSheet } from "./jobsheet.js";
import { ended } from "./status.js";
import { newer } from "./store.js";
import { inOrder } from "./timeline.js";

/** @typedef {import("./types.js").Job} Job */
/** @typedef {import("./types.js").CloudEvent} CloudEvent */

/** Progress is capped at 1,000 events on the server; a page that stays open for days keeps a bound of its own. */
const MAX_EVENTS = 2000;

export class JobView {
  /**
   * @param {HTMLElement} element
   * @param {{api: () => import("./api.js").Api, live: () => import("./live.js").Live, onJob: (job: Job) => void,
   *   onProblem: (problem: Problem) => void}} options
   */
  constructor(element, { api, live, onJob, onProblem }) {
    this.element = element;
    this.api = api;
    this.live = live;
    this.onJob = onJob;
    this.onProblem = onProblem;
    /** @type {string|null} */
    this.id = null;
    /** @type {Job|undefined} */
    this.job = undefined;
    /** @type {JobSheet|undefined} */
    this.sheet = undefined;
    /** @type {Map<string, CloudEvent>} */
    this.events = new Map();
    this.abort = new AbortController();
    this.frame = 0;
    this.stop = () => {};
    setInterval(() => this.sheet?.head.tick(Date.now()), 1000);
  }

  /** @param {string} id */
  open(id) {
    if (this.id === id) return;
    this.close();
    this.id = id;
    this.element.replaceChildren(h("p", { class: "notice", role: "status", text: "Loading the job…" }));
    this.stop = this.live().watch(`job:${id}`, {
      onEvent: (event) => this.hear(event),
      onReady: ({ recovered }) => (recovered && this.job) || void this.load(),
    });
    void this.load();
  }

  close() {
    this.stop();
    this.abort.abort();
    this.sheet?.close();
    cancelAnimationFrame(this.frame);
    this.id = null;
    this.job = undefined;
    this.sheet = undefined;
    this.events = new Map();
    this.abort = new AbortController();
    this.frame = 0;
    this.stop = () => {};
    this.element.replaceChildren();
  }

  /** Everything as it is now: on opening, and whenever continuity was lost. */
  async load() {
    const { signal } = this.abort;
    const id = /** @type {string} */ (this.id);
    try {
      const [job, log] = await Promise.all([this.api().getJob(id, signal), this.api().getEvents(id, signal)]);
      if (signal.aborted) return;
      for (const event of log) this.keep(event);
      this.learn(job);
    } catch (error) {
      if (!signal.aborted) this.fail(problemOf(error));
    }
  }

  /** @param {Problem} problem */
  fail(problem) {
    this.onProblem(problem);
    if (this.job || problem.unauthenticated) return; // what is shown stays; the banner tells that it is old
    this.element.replaceChildren(
      h("a", { class: "back", href: "#/", text: "All jobs" }),
      failure(problem, () => this.load()),
    );
  }

  /** A live event. @param {CloudEvent} event */
  hear(event) {
    if (!event?.data || event.data.id !== this.id) return;
    this.keep(event);
    const before = this.job;
    this.learn(event.data);
    // The list of attempts, and a result too large for an event, come with the job only.
    if (before && (ended(event.data.status) || event.data.attempt !== before.attempt)) void this.load();
  }

  /** @param {CloudEvent} event */
  keep(event) {
    if (!event?.id || !event.data) return;
    this.events.set(event.id, event);
    if (this.events.size <= MAX_EVENTS) return;
    const spare = inOrder(this.events.values()).find((each) => each.type === "job.progress");
    this.events.delete((spare ?? event).id);
  }

  /** @param {Job} news */
  learn(news) {
    const job = newer(this.job, news);
    this.onJob(job);
    if (!this.job && !("input" in news)) return; // the first picture is a whole one
    this.job = job;
    this.frame ||= requestAnimationFrame(() => this.draw(job));
  }

  /** @param {Job} first  the job when the frame was asked for; it may be newer by now */
  draw(first) {
    this.frame = 0;
    this.sheet ??= this.build(first);
    this.sheet.draw(this.job ?? first, inOrder(this.events.values()), Date.now());
  }

  /** @param {Job} job */
  build(job) {
    const sheet = new JobSheet(job, {
      open: (url, signal) => this.api().open(url, signal),
      act: (action) => this.act(action),
    });
    this.element.replaceChildren(...sheet.elements);
    return sheet;
  }

  /** @param {"cancel"|"retry"} action */
  async act(action) {
    try {
      await this.api().act(/** @type {string} */ (this.id), action);
      await this.load();
    } catch (error) {
      const problem = problemOf(error);
      this.onProblem(problem);
      this.sheet?.head.say(problem.status === 405 ? "This gateway does not offer that." : problem.message);
    }
  }
}

/** @param {unknown} error */
const problemOf = (error) => (error instanceof Problem ? error : new Problem(0, String(error)));

/** @param {Problem} problem @param {() => void} retry */
function failure(problem, retry) {
  const gone = problem.status === 404;
  const title = gone ? "There is no such job" : "The job could not be loaded";
  const text = gone ? "It may have been kept for its time and then removed." : problem.message;
  const again = h("button", { type: "button", class: "button", text: "Load again", on: { click: retry } });
  return h("div", { class: "card empty", role: "alert" }, h("h1", { text: title }), h("p", { text }), !gone && again);
}
