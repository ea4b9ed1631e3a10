/** What one job looks like. Made when the job is first known; `draw` brings it up to date. */

import { Attachments } from "./attachments.js";
import { copyButton, h } from "./dom.js";
import { JobHead } from "./jobhead.js";
import { jsonBlock } from "./json.js";
import { attemptsSection, errorSection, resultSection, section } from "./result.js";
import { TimelineView } from "./timelineview.js";

/** @typedef {import("./types.js").Job} Job */

export class JobSheet {
  /**
   * @param {Job} job
   * @param {{open: (url: string, signal: AbortSignal) => Promise<Response>, act: (action: "cancel"|"retry") => Promise<void>}} options
   */
  constructor(job, { open, act }) {
    this.open = open;
    this.abort = new AbortController();
    this.files = new Attachments(open);
    this.head = new JobHead(job, { act });
    this.timeline = new TimelineView();
    this.slots = {
      result: h("div", { class: "slot" }),
      error: h("div", { class: "slot" }),
      attempts: h("div", { class: "slot slot-attempts" }),
    };
    /** @type {Record<string, string>} what each slot shows, as JSON */
    this.drawn = {};
    this.elements = [...this.head.elements, this.columns(job)];
  }

  /** @param {Job} job */
  columns(job) {
    const copy = copyButton("Copy the input", () => JSON.stringify(job.input, null, 2));
    const input = section("Input", copy, jsonBlock(job.input ?? null, "Input as JSON"));
    const { result, error, attempts } = this.slots;
    const main = h("div", { class: "job-main" }, error, result, input, attempts);
    const story = section("Timeline", null, this.timeline.element);
    const side = h("div", { class: "job-side" }, story, this.head.facts, this.head.follow);
    return h("div", { class: "job-columns" }, main, side);
  }

  /** @param {Job} job @param {import("./types.js").CloudEvent[]} events  in order @param {number} now  ms */
  draw(job, events, now) {
    this.head.update(job, now);
    this.timeline.update(events);
    const { error, attempts, status } = job;
    this.put("result", status === "succeeded" ? [job.result, job.result_url] : null, () => this.result(job));
    const current = error && status !== "succeeded" && status !== "running" ? error : null;
    this.put("error", current && [current, status], () => errorSection(/** @type {any} */ (current), status));
    this.put("attempts", attempts?.length ? attempts : null, () => attemptsSection(/** @type {any} */ (attempts)));
  }

  /**
   * Fill a slot again only when what it shows has changed, so that nothing closes or jumps under the reader.
   * @param {"result"|"error"|"attempts"} name @param {unknown} content  `null`: nothing to show
   * @param {() => HTMLElement} make
   */
  put(name, content, make) {
    const mark = content ? JSON.stringify(content) : "";
    if ((this.drawn[name] ?? "") === mark) return;
    this.drawn[name] = mark;
    this.slots[name].replaceChildren(...(content ? [make()] : []));
  }

  /** @param {Job} job */
  result(job) {
    const inline = job.result !== null && job.result !== undefined;
    if (inline || !job.result_url) return resultSection(job.result ?? null, this.files);
    const place = section("Result", null, h("p", { class: "notice", text: "Loading the result…" }));
    void this.largeResult(job.result_url, place);
    return place;
  }

  /** @param {string} url @param {HTMLElement} place */
  async largeResult(url, place) {
    try {
      const result = await (await this.open(url, this.abort.signal)).json();
      place.replaceWith(resultSection(result, this.files));
    } catch (error) {
      if (this.abort.signal.aborted) return;
      place.replaceChildren(h("p", { class: "notice bad", text: /** @type {Error} */ (error).message }));
    }
  }

  /** Stop loading and give the memory back. */
  close() {
    this.abort.abort();
    this.files.close();
  }
}
