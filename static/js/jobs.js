/** The list of jobs. News only mark a job as changed; the page is written once per animation frame. */

import { Problem } from "./api.js";
import { Chips } from "./chips.js";
import { byId, setAttr, setText } from "./dom.js";
import { plural } from "./format.js";
import { stateOf } from "./liststate.js";
import { rove } from "./roving.js";
import { Row } from "./row.js";
import { ended } from "./status.js";
import { byCreation, countByGroup, matches } from "./store.js";

/** @typedef {import("./types.js").Job} Job */

const PAGE = 50;

export class JobsView {
  /**
   * @param {{store: import("./store.js").JobStore, api: () => import("./api.js").Api, onProblem: (problem: Problem) => void}} options
   *   `onProblem` hears of what concerns the whole page, as a key that is no longer good
   */
  constructor({ store, api, onProblem }) {
    this.store = store;
    this.api = api;
    this.onProblem = onProblem;
    this.filter = { group: "all", text: "" };
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    /** @type {Set<string>} */
    this.dirty = new Set();
    /** @type {import("./liststate.js").ListState} */
    this.state = "loading";
    this.next = null;
    this.frame = 0;
    this.container = byId("rows");
    this.chips = new Chips(byId("chips"), (group) => this.refilter({ group }));
    this.listen();
    setInterval(() => this.tick(), 1000);
  }

  listen() {
    const search = byId("search");
    search.addEventListener("input", () => this.refilter({ text: search.value }));
    byId("load-more").addEventListener("click", () => this.loadOlder());
    rove(this.container, { items: () => this.links(), axis: "y", onMove: (link) => this.makeCurrent(link) });
    this.container.addEventListener("focusin", (event) => this.makeCurrent(/** @type {HTMLElement} */ (event.target)));
  }

  /**
   * News of a job, from wherever.
   * @param {Job} job
   * @returns {ReturnType<import("./store.js").JobStore["apply"]>}
   */
  apply(job) {
    const outcome = this.store.apply(job);
    for (const id of outcome.removed) this.touch(id);
    if (outcome.changed) this.touch(job.id);
    return outcome;
  }

  /** @param {string} id */
  touch(id) {
    // A hidden tab draws no frames: what has neither row nor job must not pile up there.
    if (this.store.jobs.has(id) || this.rows.has(id)) this.dirty.add(id);
    else this.dirty.delete(id);
    this.schedule();
  }

  schedule() {
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const now = Date.now();
    for (const id of this.dirty) this.drawRow(id, now);
    this.dirty.clear();
    this.chips.update(countByGroup(this.store.jobs.values()));
    this.drawState();
    this.keepTabStop();
  }

  /** @param {string} id @param {number} now */
  drawRow(id, now) {
    const job = this.store.jobs.get(id);
    let row = this.rows.get(id);
    if (!job) {
      row?.element.remove();
      this.rows.delete(id);
      return;
    }
    if (!row) {
      row = new Row(job);
      row.element.classList.toggle("arrived", this.state === "ready");
      this.insert(row, job);
    }
    row.update(job, now);
    row.element.hidden = !matches(job, this.filter);
  }

  /**
   * New jobs go to the top and older pages to the end, so the place is found at once.
   * @param {Row} row
   * @param {Job} job
   */
  insert(row, job) {
    this.rows.set(job.id, row);
    const last = this.rowOf(this.container.lastElementChild);
    if (last && byCreation(last.job, job) < 0) return void this.container.append(row.element);
    let next = this.container.firstElementChild;
    while (next && byCreation(/** @type {Row} */ (this.rowOf(next)).job, job) < 0) next = next.nextElementSibling;
    this.container.insertBefore(row.element, next);
  }

  /** @param {Element|null} element */
  rowOf(element) {
    return this.rows.get(/** @type {HTMLElement|null} */ (element)?.dataset.id ?? "");
  }

  /** @param {Partial<{group: string, text: string}>} change */
  refilter(change) {
    this.filter = { ...this.filter, ...change };
    for (const row of this.rows.values()) row.element.hidden = !matches(row.job, this.filter);
    this.schedule();
  }

  tick() {
    const now = Date.now();
    for (const row of this.rows.values()) if (!ended(row.job.status)) row.tick(now);
  }

  /** The newest page; after a break also the open jobs that it does not reach. @returns {Promise<void>} */
  async reload() {
    if (this.rows.size === 0) this.setState("loading");
    try {
      const { jobs, next } = await this.api().listJobs({ limit: PAGE });
      this.next ??= next;
      for (const job of jobs) this.apply(job);
      const listed = new Set(jobs.map((job) => job.id));
      await this.refresh([...this.store.jobs.values()].filter((job) => !ended(job.status) && !listed.has(job.id)));
      this.setState("ready");
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {Job[]} jobs */
  async refresh(jobs) {
    for (const { id } of jobs.slice(0, PAGE)) {
      try {
        const { input: _, attempts: __, ...job } = await this.api().getJob(id);
        this.apply(job);
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 404) throw error;
        this.store.jobs.delete(id);
        this.touch(id);
      }
    }
  }

  async loadOlder() {
    const button = byId("load-more");
    button.disabled = true;
    try {
      const { jobs, next } = await this.api().listJobs({ limit: PAGE, cursor: this.next });
      this.next = this.store.jobs.size + jobs.length >= this.store.max ? null : next;
      for (const job of jobs) this.apply(job);
      this.schedule();
    } catch (error) {
      this.fail(error);
    } finally {
      button.disabled = false;
    }
  }

  /** @param {unknown} error */
  fail(error) {
    const problem = error instanceof Problem ? error : new Problem(0, String(error));
    this.onProblem(problem);
    this.setState(problem);
  }

  /** @param {import("./liststate.js").ListState} state */
  setState(state) {
    this.state = state;
    this.schedule();
  }

  drawState() {
    const shown = this.links().length;
    const known = this.rows.size;
    setAttr(byId("table"), "aria-busy", String(this.state === "loading"));
    byId("load-more").hidden = !this.next;
    setText(
      byId("list-note"),
      known === 0 ? "" : shown === known ? `${plural(known, "job")}` : `${shown} of ${plural(known, "job")}`,
    );
    byId("list-state").replaceChildren(...stateOf(this.state, known, shown, () => this.reload()));
  }

  /** @returns {HTMLElement[]} the links of the rows that are shown, in order */
  links() {
    const rows = /** @type {NodeListOf<HTMLElement>} */ (
      this.container.querySelectorAll(".row:not([hidden]) .row-link")
    );
    return [...rows];
  }

  /** @param {HTMLElement} link */
  makeCurrent(link) {
    if (!link.matches(".row-link")) return;
    this.container.querySelector('.row-link[tabindex="0"]')?.setAttribute("tabindex", "-1");
    link.tabIndex = 0;
  }

  /** Exactly one shown row can be reached with Tab. */
  keepTabStop() {
    if (this.container.querySelector('.row:not([hidden]) .row-link[tabindex="0"]')) return;
    const [first] = this.links();
    if (first) this.makeCurrent(first);
  }

  /** Put the focus on a job's row. @param {string|null} id @returns {boolean} whether there is one to see */
  focus(id) {
    const row = this.rows.get(id ?? "");
    if (!row || row.element.hidden) return false;
    row.link.focus();
    return true;
  }

  clear() {
    this.store.clear();
    this.rows.clear();
    this.container.replaceChildren();
    this.next = null;
    this.setState("loading");
  }
}
