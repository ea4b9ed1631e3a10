/** JSON as people read it: indented, coloured, and never so long that it stops the page. */

import { h } from "./dom.js";
import { formatBytes } from "./format.js";

const MAX_STRING = 2000;
const MAX_TEXT = 100_000;

/** @typedef {{kind: "key"|"string"|"number"|"word"|"plain", text: string}} Token */

/** Indented text with very long strings and very long documents cut, saying so. @param {unknown} value */
export function prettyJson(value) {
  const text =
    JSON.stringify(
      value,
      (_, each) => (typeof each === "string" && each.length > MAX_STRING ? shorten(each) : each),
      2,
    ) ?? "null";
  return text.length > MAX_TEXT
    ? `${text.slice(0, MAX_TEXT)}\n… ${formatBytes(text.length - MAX_TEXT)} more; copy it to see all`
    : text;
}

/** @param {string} text */
const shorten = (text) => `${text.slice(0, 200)}… (${formatBytes(text.length - 200)} more)`;

const PATTERN = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|\b(true|false|null)\b/g;

/** @param {string} text @returns {Token[]} their texts joined are the text */
export function tokens(text) {
  /** @type {Token[]} */
  const out = [];
  let end = 0;
  for (const match of text.matchAll(PATTERN)) {
    if (match.index > end) out.push({ kind: "plain", text: text.slice(end, match.index) });
    const [whole, string, colon, number] = match;
    if (string !== undefined) {
      out.push({ kind: colon === undefined ? "string" : "key", text: string });
      if (colon !== undefined) out.push({ kind: "plain", text: colon });
    } else out.push({ kind: number === undefined ? "word" : "number", text: whole });
    end = match.index + whole.length;
  }
  if (end < text.length) out.push({ kind: "plain", text: text.slice(end) });
  return out;
}

/** @param {unknown} value @param {string} label  what it is, for the scrollable box */
export function jsonBlock(value, label) {
  const parts = tokens(prettyJson(value)).map(({ kind, text }) =>
    kind === "plain" ? text : h("span", { class: `json-${kind}`, text }),
  );
  return h("pre", { class: "code", tabindex: 0, role: "region", "aria-label": label }, h("code", {}, ...parts));
}
