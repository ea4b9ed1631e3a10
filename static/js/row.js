/** One row of the list: made once, then only the parts that changed are written. */

import { h, setAttr, setText } from "./dom.js";
import { formatDuration, formatPercent, formatWhen, fractionOf, ranFor, shortId } from "./format.js";
import { jobHref } from "./router.js";
import { describe, ended } from "./status.js";

/** @typedef {import("./types.js").Job} Job */

/** A progress bar with its numbers for screen readers. @param {string} label */
export function progressBar(label) {
  const fill = h("div", { class: "bar-fill" });
  const bar = h(
    "div",
    { class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 },
    fill,
  );
  /** @param {Job} job */
  const update = (job) => {
    const fraction = job.status === "succeeded" ? 1 : fractionOf(job.progress);
    const moving =
      !ended(job.status) && job.status !== "queued" && job.status !== "scheduled" && job.status !== "accepted";
    bar.hidden = fraction === null && !moving;
    bar.classList.toggle("unknown", fraction === null);
    bar.style.setProperty("--fraction", String(fraction ?? 0));
    setAttr(bar, "data-tone", describe(job.status).tone);
    // Without a value the bar is "indeterminate", which is what a share nobody knows is.
    setAttr(bar, "aria-valuenow", fraction === null ? null : String(Math.floor(fraction * 100)));
  };
  return { bar, update };
}

/**
 * The words beside a bar: what happens, or why nothing does.
 * @param {Job} job @param {number} now  ms
 */
export function progressText(job, now) {
  if (job.status === "failed" || job.status === "retrying") return job.error?.message ?? "";
  if (job.status === "scheduled") return `Starts ${formatWhen(job.run_after, now)}`;
  if (job.status === "accepted" || job.status === "queued") return "Waiting for a worker";
  const share = fractionOf(job.progress);
  // The last progress before the end may have been "3 of 4": beside a full bar that would be wrong.
  if (job.status === "succeeded" && share !== 1) return "";
  const fraction = job.status === "succeeded" ? null : share;
  const message = job.progress?.message ?? "";
  return [fraction === null ? "" : formatPercent(fraction), message].filter(Boolean).join(" · ");
}

/** @param {string} status @returns {{badge: HTMLElement, update: (status: string) => void}} */
export function statusBadge(status) {
  const badge = h("span", { class: "badge" });
  /** @param {string} next */
  const update = (next) => {
    const { label, tone } = describe(next);
    setText(badge, label);
    setAttr(badge, "data-tone", tone);
  };
  update(status);
  return { badge, update };
}

export class Row {
  /** @param {Job} job */
  constructor(job) {
    const name = `${job.type} ${shortId(job.id)}`;
    this.job = job;
    this.link = h("a", { class: "row-link", href: jobHref(job.id), tabindex: -1, "aria-label": name, text: job.type });
    this.status = statusBadge(job.status);
    this.progress = progressBar(`Progress of ${name}`);
    this.message = h("span", { class: "row-message" });
    this.attempt = cell("c-attempt", "Attempt");
    this.created = cell("c-created", "Created");
    this.duration = cell("c-duration", "Duration");
    this.owner = cell("c-owner", "Owner");
    this.element = h(
      "div",
      { class: "row", role: "row", data: { id: job.id } },
      h(
        "span",
        { class: "c-job", role: "cell" },
        this.link,
        h("span", { class: "row-id mono", "aria-hidden": "true", title: job.id, text: shortId(job.id) }),
      ),
      h("span", { class: "c-status", role: "cell" }, this.status.badge),
      h("span", { class: "c-progress", role: "cell" }, this.progress.bar, this.message),
      this.attempt,
      this.created,
      this.duration,
      this.owner,
    );
  }

  /** @param {Job} job @param {number} now  ms */
  update(job, now) {
    this.job = job;
    setAttr(this.element, "data-status", job.status);
    this.status.update(job.status);
    this.progress.update(job);
    setText(this.message, progressText(job, now));
    setAttr(this.message, "title", this.message.textContent || null);
    setText(this.attempt, `${job.attempt}/${job.max_attempts}`);
    this.attempt.classList.toggle("notable", job.attempt > 1);
    setText(this.created, formatWhen(job.created_at, now));
    setText(this.owner, job.owner || "–");
    this.tick(now);
  }

  /** The clock went on. @param {number} now  ms */
  tick(now) {
    const span = ranFor(this.job, now);
    setText(this.duration, span === null ? "–" : formatDuration(span, { coarse: !ended(this.job.status) }));
  }
}

/** The label is shown where there are no column heads. @param {string} name @param {string} label */
function cell(name, label) {
  return h("span", { class: name, role: "cell", data: { label } });
}
