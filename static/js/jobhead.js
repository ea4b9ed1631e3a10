/** The top of a job's page: name, state, progress, what one can do; and its facts. */

import { copyButton, h, icon, setText } from "./dom.js";
import { formatDuration, formatWhen, ranFor, shortId } from "./format.js";
import { section } from "./result.js";
import { progressBar, progressText, statusBadge } from "./row.js";
import { describe, ended } from "./status.js";

/** @typedef {import("./types.js").Job} Job */

export class JobHead {
  /** @param {Job} job @param {{act: (action: "cancel"|"retry") => Promise<void>}} options */
  constructor(job, { act }) {
    this.job = job;
    this.badge = statusBadge(job.status);
    this.progress = progressBar("Progress");
    this.message = h("p", { class: "muted" });
    this.refusal = h("p", { class: "field-error", role: "alert" });
    this.clock = h("span", { class: "clock" });
    this.cancel = this.button("Cancel", "cancel", act);
    this.retry = this.button("Run again", "retry", act);
    const title = h("div", { class: "job-title" }, h("h1", { text: job.type }), this.badge.badge);
    const id = h(
      "p",
      { class: "job-id" },
      h("code", { text: job.id }),
      copyButton("Copy the job id", () => job.id),
    );
    this.elements = [
      h("a", { class: "back", href: "#/" }, icon("back"), "All jobs"),
      h(
        "div",
        { class: "job-top" },
        h("div", {}, title, id),
        h("div", { class: "job-actions" }, this.cancel, this.retry),
      ),
      h(
        "div",
        { class: "job-progress" },
        this.progress.bar,
        h("div", { class: "job-progress-text" }, this.message, this.clock),
        this.refusal,
      ),
    ];
    this.list = h("dl", { class: "facts" });
    this.facts = section("Facts", null, this.list);
    this.follow = followSection(job);
  }

  /**
   * @param {string} label
   * @param {"cancel"|"retry"} action
   * @param {(action: "cancel"|"retry") => Promise<void>} act
   */
  button(label, action, act) {
    const button = /** @type {HTMLButtonElement} */ (
      h("button", { type: "button", class: `button${action === "cancel" ? " danger" : ""}`, text: label })
    );
    button.addEventListener("click", async () => {
      this.say("");
      button.disabled = true;
      await act(action);
      button.disabled = false;
    });
    return button;
  }

  /** Why an action was refused. @param {string} text */
  say(text) {
    setText(this.refusal, text);
  }

  /** @param {Job} job @param {number} now  ms */
  update(job, now) {
    this.job = job;
    this.badge.update(job.status);
    this.progress.update(job);
    setText(this.message, progressText(job, now));
    this.cancel.hidden = ended(job.status) || job.status === "cancelling";
    this.retry.hidden = !ended(job.status);
    document.title = `${describe(job.status).label} · ${job.type} ${shortId(job.id)}`;
    this.drawFacts(factsOf(job, now));
    this.tick(now);
  }

  /**
   * Made again only when one of them changed: a focused copy button must not go away.
   * @param {[string, string, boolean?][]} facts
   */
  drawFacts(facts) {
    const mark = JSON.stringify(facts);
    if (mark === this.drawn) return;
    this.drawn = mark;
    this.list.replaceChildren(
      ...facts.map(([name, value, copy]) => {
        const button = copy ? copyButton(`Copy the ${name.toLowerCase()}`, () => value) : null;
        return h(
          "div",
          {},
          h("dt", { text: name }),
          h("dd", { class: copy ? "mono" : "" }, h("span", { text: value }), button),
        );
      }),
    );
  }

  /** @param {number} now  ms */
  tick(now) {
    const span = ranFor(this.job, now);
    setText(this.clock, span === null ? "" : formatDuration(span, { coarse: !ended(this.job.status) }));
  }
}

/**
 * What else there is to know, without what the page shows elsewhere.
 * @param {Job} job @param {number} now  ms @returns {[string, string, boolean?][]} name, value, whether one would copy it
 */
export function factsOf(job, now) {
  /** @param {string|null|undefined} from @param {string|null|undefined} to */
  const between = (from, to) => (from && to ? formatDuration(Date.parse(to) - Date.parse(from)) : "");
  /** @type {[string, string|null|undefined, boolean?][]} */
  const facts = [
    ["Attempt", `${job.attempt} of ${job.max_attempts}`],
    ["Run", job.run > 1 ? String(job.run) : ""],
    ["Created", formatWhen(job.created_at, now)],
    ["Waited", between(job.queued_at ?? job.created_at, job.started_at)],
    ["Started", job.started_at && formatWhen(job.started_at, now)],
    ["Finished", job.finished_at && formatWhen(job.finished_at, now)],
    ["Next try", !ended(job.status) && job.run_after ? formatWhen(job.run_after, now) : ""],
    ["Kept until", job.expires_at && formatWhen(job.expires_at, now)],
    ["Priority", job.priority],
    ["Pool", job.pool],
    ["Owner", job.owner],
    ["Channels", job.channels?.join(", ")],
    ["Callback", job.callback_url],
    ["Trace id", job.trace_id, true],
  ];
  return facts.flatMap(([name, value, copy]) => (value ? [[name, value, copy]] : []));
}

/**
 * Commands that follow the job from a terminal; the key is left to the reader's environment.
 * @param {Job} job
 */
function followSection(job) {
  const stream = `curl -N -H "Authorization: Bearer $GATEWAY_KEY" \\\n  "${location.origin}/v1/stream?channel=job:${job.id}"`;
  const wait = `curl -H "Authorization: Bearer $GATEWAY_KEY" -H "Prefer: wait=30" \\\n  "${location.origin}/v1/jobs/${job.id}"`;
  /** @param {string} label @param {string} command */
  const block = (label, command) =>
    h(
      "div",
      { class: "command" },
      h(
        "div",
        { class: "command-head" },
        h("h3", { text: label }),
        copyButton(`Copy: ${label}`, () => command),
      ),
      h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label }, h("code", { text: command })),
    );
  return section(
    "Follow it from a terminal",
    null,
    block("Every event, as it happens", stream),
    block("The state, after a change", wait),
  );
}
