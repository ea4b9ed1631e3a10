/** The timeline on the page. Entries are made once; only a growing run of progress is written again. */

import { h, setText, svg } from "./dom.js";
import { formatPercent, formatWhen, fractionOf } from "./format.js";
import { buildTimeline, progressLine } from "./timeline.js";

/** @typedef {import("./timeline.js").Entry} Entry */

const MAX_LISTED = 100;

export class TimelineView {
  constructor() {
    this.element = h("ol", { class: "timeline", "aria-label": "Timeline" });
    /** @type {Map<string, {element: HTMLElement, update: (entry: Entry) => void}>} */
    this.shown = new Map();
  }

  /** @param {import("./types.js").CloudEvent[]} events  in order */
  update(events) {
    const entries = buildTimeline(events);
    const elements = entries.map((entry) => {
      const item = this.shown.get(entry.key) ?? this.add(entry);
      item.update(entry);
      return item.element;
    });
    elements.forEach((element, index) => {
      if (this.element.children[index] !== element)
        this.element.insertBefore(element, this.element.children[index] ?? null);
    });
    const keys = new Set(entries.map((entry) => entry.key));
    for (const [key, { element }] of this.shown) {
      if (keys.has(key)) continue;
      element.remove();
      this.shown.delete(key);
    }
  }

  /** @param {Entry} entry */
  add(entry) {
    const detail = h("p", { class: "entry-detail" });
    const more = h("div", { class: "entry-more" });
    const after = h("span", { class: "entry-after" });
    const time = h("time", { datetime: entry.time, title: entry.time, text: formatWhen(entry.time, Date.now()) });
    const head = h(
      "p",
      { class: "entry-head" },
      h("strong", { text: entry.label }),
      h("code", { text: entry.type }),
      h("span", { class: "entry-time" }, after, time),
    );
    const element = h("li", { class: "entry", data: { event: entry.type, tone: entry.tone } }, head, detail, more);
    /** @param {Entry} next */
    const update = (next) => {
      setText(detail, next.detail);
      setText(after, next.after);
      if (next.updates.length > 1) drawUpdates(more, next);
    };
    this.shown.set(entry.key, { element, update });
    return { element, update };
  }
}

/** @param {HTMLElement} more @param {Entry} entry */
function drawUpdates(more, { updates }) {
  const open = more.querySelector("details")?.open ?? false;
  const line = progressLine(updates);
  const chart =
    line &&
    svg(
      "svg",
      { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("polyline", { points: line }),
    );
  if (!open) {
    const details = h("details", { class: "updates" }, h("summary", { text: "All updates" }));
    // The list is made when somebody looks: a job may have a thousand of these.
    details.addEventListener(
      "toggle",
      () => /** @type {HTMLDetailsElement} */ (details).open && fillUpdates(details, updates),
    );
    more.replaceChildren(...[chart || null, details].filter((each) => each !== null));
    return;
  }
  more.querySelector("polyline")?.setAttribute("points", line);
  fillUpdates(/** @type {HTMLElement} */ (more.querySelector("details")), updates);
}

/** @param {HTMLElement} details @param {import("./types.js").CloudEvent[]} updates */
function fillUpdates(details, updates) {
  const items = updates.slice(-MAX_LISTED).map(({ time, data }) => {
    const fraction = fractionOf(data.progress);
    const share = h("span", { class: "update-share", text: fraction === null ? "" : formatPercent(fraction) });
    return h(
      "li",
      {},
      h("time", { datetime: time, text: formatWhen(time, Date.now()) }),
      share,
      h("span", { text: data.progress?.message ?? "" }),
    );
  });
  details.querySelector("ol")?.remove();
  details.append(h("ol", { class: "update-list" }, ...items));
}
