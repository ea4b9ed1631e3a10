/** The panel that submits jobs: tabs, sending once, and every refusal beside the field it is about. */

import { MAX_INPUT_BYTES, Problem } from "./api.js";
import { announce, h, setAttr } from "./dom.js";
import { fieldFor, FieldProblem } from "./fields.js";
import { byteLength, formatBytes, shortId } from "./format.js";
import { allForms, priorityField } from "./forms.js";
import { jobHref } from "./router.js";
import { rove } from "./roving.js";

/** @typedef {import("./forms.js").JobForm} JobForm */

/** Random, and not from `crypto.randomUUID`, which plain HTTP on another host than localhost does not have. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export class SubmitPanel {
  /**
   * @param {HTMLElement} element
   * @param {{api: () => import("./api.js").Api, onJob: (job: import("./types.js").Job) => void, onProblem: (problem: Problem) => void}} options
   */
  constructor(element, { api, onJob, onProblem }) {
    this.api = api;
    this.onJob = onJob;
    this.onProblem = onProblem;
    /**
     * The request whose fate is unknown: sent again unchanged, it must not become a second job.
     * @type {{body: string, key: string}|null}
     */
    this.unanswered = null;
    const loadSample = async () => (await this.api().open("/static/sample.csv")).text();
    const panels = allForms(loadSample).map((form) => this.panel(form));
    const tabs = h(
      "div",
      { class: "tabs", role: "tablist", "aria-label": "Kind of job" },
      ...panels.map(({ tab }) => tab),
    );
    element.replaceChildren(
      h("h2", { id: "submit-title", text: "Submit a job" }),
      tabs,
      ...panels.map(({ body }) => body),
    );
    /** @param {HTMLElement} chosen */
    const select = (chosen) =>
      panels.forEach(({ tab, body }) => {
        const on = tab === chosen;
        setAttr(tab, "aria-selected", String(on));
        tab.tabIndex = on ? 0 : -1;
        body.hidden = !on;
      });
    for (const { tab } of panels) tab.addEventListener("click", () => select(tab));
    rove(tabs, { items: () => panels.map(({ tab }) => tab), wrap: true, onMove: select });
    select(panels[0].tab);
  }

  /** @param {JobForm} form */
  panel(form) {
    const tab = h("button", {
      type: "button",
      class: "tab",
      role: "tab",
      id: `tab-${form.id}`,
      "aria-controls": `panel-${form.id}`,
      text: form.label,
    });
    const priority = priorityField();
    const outcome = h("div", { class: "outcome" });
    const button = h("button", { type: "submit", class: "button primary wide", text: "Submit" });
    const sheet = h(
      "form",
      { class: "form", id: `form-${form.id}`, "aria-labelledby": `tab-${form.id}`, novalidate: true },
      h("p", { class: "form-lead", text: form.lead }),
      ...form.elements,
      priority.element,
      button,
      outcome,
    );
    const all = { ...form, pointers: { ...form.pointers, "/priority": priority } };
    sheet.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.send(all, () => priority.control.value, button, outcome);
    });
    return {
      tab,
      body: h("div", { id: `panel-${form.id}`, role: "tabpanel", "aria-labelledby": `tab-${form.id}` }, sheet),
    };
  }

  /**
   * @param {JobForm} form
   * @param {() => string} priority
   * @param {HTMLElement} button
   * @param {HTMLElement} outcome
   */
  async send(form, priority, button, outcome) {
    if (button.getAttribute("aria-busy") === "true") return;
    setAttr(button, "aria-busy", "true");
    outcome.replaceChildren();
    for (const each of Object.values(form.pointers)) each.setError("");
    try {
      const body = bodyOf(await form.read(), priority());
      if (this.unanswered?.body !== body) this.unanswered = { body, key: newKey() };
      const job = await this.api().submit(body, this.unanswered.key);
      this.unanswered = null;
      this.onJob(job);
      outcome.replaceChildren(accepted(job));
      announce(`${job.type} ${shortId(job.id)} accepted`);
    } catch (error) {
      this.refused(form, error, outcome);
    } finally {
      setAttr(button, "aria-busy", null);
    }
  }

  /** @param {JobForm} form @param {unknown} error @param {HTMLElement} outcome */
  refused(form, error, outcome) {
    if (error instanceof Problem) {
      if (error.status !== 0 && error.status < 500) this.unanswered = null;
      this.onProblem(error);
    }
    const errors = error instanceof Problem || error instanceof FieldProblem ? error.errors : [];
    const known = Object.keys(form.pointers);
    const homeless = errors.filter(({ pointer, detail }) => {
      const at = fieldFor(pointer, known);
      if (at) form.pointers[at].setError(detail);
      return !at;
    });
    const [first] = errors.map(({ pointer }) => fieldFor(pointer, known)).filter((at) => at !== null);
    if (first) form.pointers[first].control.focus();
    if (errors.length === 0 || homeless.length > 0) outcome.replaceChildren(refusal(error, homeless));
  }
}

/**
 * The request body, within the limits. @param {{type: string, input: unknown, delay?: number}} job @param {string} priority
 * @returns {string} @throws {FieldProblem}
 */
function bodyOf(job, priority) {
  const size = byteLength(JSON.stringify(job.input));
  if (size > MAX_INPUT_BYTES)
    throw new FieldProblem(
      "/input",
      `The input has ${formatBytes(size)}; the limit is ${formatBytes(MAX_INPUT_BYTES)}`,
    );
  return JSON.stringify({ ...job, ...(priority === "default" ? {} : { priority }) });
}

/** @param {import("./types.js").Job} job */
const accepted = (job) =>
  h(
    "p",
    { class: "accepted" },
    h("span", {}, "Accepted ", h("span", { class: "mono", text: shortId(job.id) })),
    h("a", { href: jobHref(job.id), "aria-label": `Open ${job.type} ${shortId(job.id)}`, text: "Open" }),
  );

/**
 * @param {unknown} error
 * @param {import("./types.js").FieldError[]} homeless  errors without a field of their own
 */
function refusal(error, homeless) {
  const wait = error instanceof Problem && error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const text = error instanceof Error ? error.message : String(error);
  const list = homeless.map(({ pointer, detail }) => h("li", {}, h("code", { text: pointer }), `: ${detail}`));
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("p", { text: text + wait }),
    list.length > 0 && h("ul", {}, ...list),
  );
}
