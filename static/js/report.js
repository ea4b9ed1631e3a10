/** The result of `report.csv`: a table of columns, each with its distribution as small bars. */

import { h, svg } from "./dom.js";
import { formatNumber, plural } from "./format.js";

/**
 * @typedef {object} Column
 * @property {string} name
 * @property {string} type
 * @property {[string, string][]} facts  as ["min", "3.2"]
 * @property {"histogram"|"top"|null} chart
 * @property {{label: string, count: number}[]} bars
 */

const FACTS = ["count", "empty", "mismatched", "distinct", "true", "min", "max", "mean", "stddev"];

/** Whether a result is such a report. @param {any} result */
export const isReport = (result) =>
  Array.isArray(result?.columns) &&
  result.columns.length > 0 &&
  result.columns.every((/** @type {any} */ each) => typeof each?.name === "string");

/** @param {any} raw  one of `result.columns` @returns {Column} */
export function columnOf(raw) {
  const told = FACTS.filter((name) => raw[name] !== undefined && raw[name] !== null);
  const facts = told.map(
    (name) =>
      /** @type {[string, string]} */ ([
        name,
        (name === "distinct" && raw.distinct_capped ? "over " : "") + show(raw[name]),
      ]),
  );
  const chart = Array.isArray(raw.histogram?.counts)
    ? "histogram"
    : Array.isArray(raw.top) && raw.top.length > 0
      ? "top"
      : null;
  const bars = chart === "histogram" ? histogramBars(raw.histogram) : chart === "top" ? topBars(raw.top) : [];
  return { name: raw.name, type: String(raw.type ?? ""), facts, chart, bars };
}

/** @param {unknown} value */
const show = (value) => (typeof value === "number" ? formatNumber(value) : String(value));

/**
 * Equally wide bins; between dates the edges are not computed, only the ends named.
 * @param {{from: unknown, to: unknown, counts: number[]}} histogram
 */
function histogramBars({ from, to, counts }) {
  if (typeof from !== "number" || typeof to !== "number") return counts.map((count) => ({ count, label: `${count}` }));
  const width = (to - from) / counts.length;
  return counts.map((count, index) => ({
    count,
    label: `${show(from + index * width)} to ${show(from + (index + 1) * width)}: ${count}`,
  }));
}

/** @param {{value: unknown, count: number}[]} top */
const topBars = (top) => top.map(({ value, count }) => ({ label: String(value), count }));

/** @param {any} result */
export function reportTable(result) {
  const columns = result.columns.map(columnOf);
  const heads = ["Column", "Distribution", "Facts"].map((text) => h("th", { scope: "col", text }));
  const rows = columns.map((/** @type {Column} */ column) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, column.name, h("span", { class: "column-type", text: column.type })),
      h("td", {}, chartOf(column)),
      h(
        "td",
        {},
        h(
          "dl",
          { class: "facts-inline" },
          ...column.facts.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))),
        ),
      ),
    ),
  );
  const count = typeof result.rows === "number" ? `${plural(result.rows, "row")}, ` : "";
  const issues = Object.entries(result.issues ?? {}).map(
    ([kind, { count: many, first_line: line }]) => `${kind}: ${many}, first on line ${line}`,
  );
  const left = result.columns_left_out ? ` (${result.columns_left_out} more left out)` : "";
  const caption = h("caption", { text: [`${count}${plural(columns.length, "column")}${left}`, ...issues].join(" · ") });
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Columns of the report" },
    h("table", { class: "report" }, caption, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows)),
  );
}

/** @param {Column} column */
function chartOf({ name, bars, chart }) {
  if (chart === "histogram") return histogram(name, bars);
  if (chart === "top") return topList(bars);
  return h("span", { class: "muted", text: "–" });
}

/** @param {string} name @param {Column["bars"]} bars */
function histogram(name, bars) {
  const highest = Math.max(1, ...bars.map((bar) => bar.count));
  const width = 100 / bars.length;
  const shapes = bars.map(({ count, label }, index) => {
    const height = count === 0 ? 0 : Math.max(1, (count / highest) * 36);
    return svg(
      "rect",
      {
        x: (index * width + width * 0.06).toFixed(2),
        y: (36 - height).toFixed(2),
        width: (width * 0.88).toFixed(2),
        height: height.toFixed(2),
      },
      svg("title", { text: label }),
    );
  });
  return svg(
    "svg",
    {
      class: "histogram",
      viewBox: "0 0 100 36",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Distribution of ${name}: ${bars.map((bar) => bar.label).join("; ")}`,
    },
    ...shapes,
  );
}

/** @param {Column["bars"]} bars */
function topList(bars) {
  const highest = Math.max(1, ...bars.map((bar) => bar.count));
  return h(
    "ul",
    { class: "top" },
    ...bars.slice(0, 6).map(({ label, count }) => {
      const item = h(
        "li",
        {},
        h("span", { class: "top-label", text: label || "(empty)" }),
        h("span", { class: "top-count", text: formatNumber(count) }),
      );
      item.style.setProperty("--share", String(count / highest));
      return item;
    }),
  );
}
