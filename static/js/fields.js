/** Form fields with a label, a hint and an error of their own, and how a problem document finds them. */

import { h, setAttr } from "./dom.js";

let serial = 0;

/**
 * @typedef {object} Field
 * @property {HTMLElement} element  everything: label, control, hint, error
 * @property {any} control
 * @property {(text: string) => void} setError  empty: the field is fine
 */

/**
 * @param {string} label @param {HTMLElement} control @param {{hint?: string, after?: HTMLElement}} [options] @returns {Field}
 */
export function field(label, control, { hint = "", after } = {}) {
  const id = `f${(serial += 1)}`;
  control.id = id;
  const error = h("p", { class: "field-error", id: `${id}-error`, role: "alert" });
  const note = h("p", { class: "hint", id: `${id}-hint`, text: hint });
  setAttr(control, "aria-describedby", `${id}-error ${id}-hint`);
  const element = h("div", { class: "field" }, h("label", { for: id, text: label }), control, after, note, error);
  /** @param {string} text */
  const setError = (text) => {
    error.textContent = text;
    setAttr(control, "aria-invalid", text ? "true" : null);
  };
  control.addEventListener("input", () => setError(""));
  return { element, control, setError };
}

/** @param {string} label @param {Record<string, unknown>} [props] @param {{hint?: string}} [options] */
export const numberField = (label, props = {}, options = {}) =>
  field(label, h("input", { type: "number", inputmode: "decimal", step: "any", ...props }), options);

/** @param {string} label @param {[string, string][]} choices  value, label; the first is chosen */
export const selectField = (label, choices) =>
  field(label, h("select", {}, ...choices.map(([value, text]) => h("option", { value, text }))));

/** @param {string} label @returns {{element: HTMLElement, control: any}} */
export function checkField(label) {
  const control = h("input", { type: "checkbox" });
  return { element: h("label", { class: "check" }, control, label), control };
}

/** What is wrong with what was typed, found before anything is sent. */
export class FieldProblem extends Error {
  /**
   * @param {string} pointer  JSON pointer into the request, as the server would name it
   * @param {string} detail
   */
  constructor(pointer, detail) {
    super(detail);
    this.errors = [{ pointer, detail }];
  }
}

/**
 * The field an error belongs to: the one with the longest pointer that leads to it (RFC 6901, with or without `#`).
 * @param {string} pointer @param {string[]} known  the pointers that have a field
 * @returns {string|null}
 */
export function fieldFor(pointer, known) {
  const path = pointer.replace(/^#/, "");
  const leading = known.filter((each) => path === each || path.startsWith(`${each}/`));
  return leading.sort((a, b) => b.length - a.length)[0] ?? null;
}

/**
 * A number somebody typed, or `undefined` for nothing.
 * @param {Field} where @param {string} pointer @returns {number|undefined} @throws {FieldProblem}
 */
export function readNumber(where, pointer) {
  const { value, validity } = where.control;
  if (validity.badInput) throw new FieldProblem(pointer, "This is not a number");
  if (value.trim() === "") return undefined;
  const number = Number(value);
  if (!Number.isFinite(number)) throw new FieldProblem(pointer, "This is not a number");
  const { min, max, step } = where.control;
  if ((min && number < Number(min)) || (max && number > Number(max)))
    throw new FieldProblem(pointer, `This must be between ${min} and ${max}`);
  if (step === "1" && !Number.isInteger(number)) throw new FieldProblem(pointer, "This must be a whole number");
  return number;
}

/**
 * JSON somebody typed; the error says where it stops being JSON.
 * @param {string} text
 * @param {string} pointer
 */
export function readJson(text, pointer) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FieldProblem(pointer, explain(text, String(/** @type {Error} */ (error).message)));
  }
}

/** @param {string} text @param {string} message  as the engine words it */
export function explain(text, message) {
  if (text.trim() === "") return "JSON is needed here, for example {}";
  const at = /position (\d+)/.exec(message);
  const odd = /^Unexpected token '(.+?)'/.exec(message);
  if (!at && odd) return `This is not JSON: ${odd[1]} is not expected here`;
  if (!at) return /end of/i.test(message) ? "This is not JSON: it ends too early" : `This is not JSON: ${message}`;
  const before = text.slice(0, Number(at[1])).split("\n");
  return `This is not JSON: line ${before.length}, column ${before[before.length - 1].length + 1}`;
}
