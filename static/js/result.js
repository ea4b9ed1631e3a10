/** How a job's result is shown: as what it is where we know it, and always as JSON. */

import { attachmentsOf } from "./attachments.js";
import { copyButton, h } from "./dom.js";
import { formatDuration } from "./format.js";
import { jsonBlock } from "./json.js";
import { isReport, reportTable } from "./report.js";

/** @param {string} title @param {HTMLElement|null} action @param {...(HTMLElement|null|false)} body */
export function section(title, action, ...body) {
  return h(
    "section",
    { class: `card panel panel-${title.split(" ")[0].toLowerCase()}`, "aria-label": title },
    h("div", { class: "panel-head" }, h("h2", { text: title }), action),
    ...body,
  );
}

/**
 * @param {unknown} result @param {import("./attachments.js").Attachments} files
 * @returns {HTMLElement}
 */
export function resultSection(result, files) {
  const copy = copyButton("Copy the result", () => JSON.stringify(result, null, 2));
  const attached = attachmentsOf(result);
  const known = [isReport(result) && reportTable(result), attached.length > 0 && files.gallery(attached)].filter(
    (each) => each !== false,
  );
  const json = jsonBlock(result, "Result as JSON");
  if (known.length === 0) return section("Result", copy, json);
  return section("Result", copy, ...known, h("details", { class: "raw" }, h("summary", { text: "As JSON" }), json));
}

/** @param {import("./types.js").JobError} error @param {string} status */
export function errorSection(error, status) {
  const title = status === "failed" ? "Error" : "Last error";
  const facts = [error.attempt ? `attempt ${error.attempt}` : "", error.retryable === false ? "not retried" : ""]
    .filter(Boolean)
    .join(", ");
  return section(
    title,
    null,
    h(
      "div",
      { class: "notice bad" },
      h("p", {}, h("strong", { class: "mono", text: error.type }), facts && ` (${facts})`),
      h("p", { class: "error-text", text: error.message }),
    ),
  );
}

/**
 * The attempts that have ended, as the server keeps them.
 * @param {{run: number, attempt: number, worker: string|null, started_at: string|null, finished_at: string, error: import("./types.js").JobError|null}[]} attempts
 */
export function attemptsSection(attempts) {
  const items = attempts.map(({ run, attempt, worker, started_at: from, finished_at: to, error }) => {
    const name = `${run > 1 ? `Run ${run}, attempt` : "Attempt"} ${attempt}`;
    const words = [
      from && formatDuration(Date.parse(to) - Date.parse(from)),
      worker && `on ${worker}`,
      error ? error.message : "succeeded",
    ]
      .filter(Boolean)
      .join(" · ");
    return h(
      "li",
      { data: { tone: error ? "bad" : "good" } },
      h("strong", { text: name }),
      h("span", { class: "muted", text: words }),
    );
  });
  return section("Attempts", null, h("ol", { class: "attempts" }, ...items));
}
