/**
 * The example jobs one can submit. A form knows its fields, how they become a request, and which field a JSON pointer
 * of the request means; sending and showing the answer is `submit.js`.
 */

import { MAX_INPUT_BYTES } from "./api.js";
import { h, setText } from "./dom.js";
import { checkField, field, FieldProblem, numberField, readJson, readNumber, selectField } from "./fields.js";
import { byteLength, formatBytes } from "./format.js";
import { imageToFit } from "./image.js";
import { SAMPLES } from "./samples.js";

/** @typedef {import("./fields.js").Field} Field */
/**
 * @typedef {object} JobForm
 * @property {string} id
 * @property {string} label  of its tab
 * @property {string} lead
 * @property {HTMLElement[]} elements
 * @property {Record<string, Field>} pointers
 * @property {() => Promise<{type: string, input: unknown, delay?: number}>} read  throws `FieldProblem`
 */

/** base64 makes four bytes of three; a little is left for the rest of the input. */
const MAX_IMAGE_BYTES = Math.floor((MAX_INPUT_BYTES - 1024) * 0.75);

/** @param {string} accept @param {string} label @param {(file: File) => void} onFile */
function fileButton(accept, label, onFile) {
  const input = /** @type {HTMLInputElement} */ (
    h("input", { type: "file", accept, hidden: true, tabindex: -1, "aria-label": label })
  );
  const button = h("button", {
    type: "button",
    class: "button small",
    text: label,
    on: { click: () => input.click() },
  });
  input.addEventListener("change", () => {
    const [file] = input.files ?? [];
    input.value = ""; // choosing the same file again is a change again
    if (file) onFile(file);
  });
  return [button, input];
}

/** @param {() => Promise<string>} loadSample @returns {JobForm} */
function reportForm(loadSample) {
  const note = h("span", { class: "hint", role: "status" });
  const area = /** @type {HTMLTextAreaElement} */ (
    h("textarea", { spellcheck: "false", rows: 7, placeholder: "date,region,amount\n2026-01-05,north,12.5" })
  );
  /** @param {string} text @param {string} name */
  const take = (text, name) => {
    area.value = text;
    area.dispatchEvent(new Event("input"));
    setText(note, `${name}, ${formatBytes(byteLength(text))}`);
  };
  const sample = h("button", { type: "button", class: "button small", text: "Sample data" });
  const choose = fileButton(".csv,text/csv,text/plain", "Choose a file", async (file) => {
    if (file.size > MAX_INPUT_BYTES)
      csv.setError(`${file.name} has ${formatBytes(file.size)}; the limit is ${formatBytes(MAX_INPUT_BYTES)}`);
    else take(await file.text(), file.name);
  });
  const csv = field("CSV with a header line", area, { after: h("div", { class: "file-row" }, sample, ...choose) });
  sample.addEventListener("click", () =>
    loadSample().then(
      (text) => take(text, "Sample"),
      (error) => csv.setError(error.message),
    ),
  );
  const read = async () => {
    if (area.value.trim() === "")
      throw new FieldProblem("/input/csv", "Paste CSV, choose a file or take the sample data");
    return { type: "report.csv", input: { csv: area.value } };
  };
  const lead = "Reads a table and describes every column: type, range, distribution.";
  return {
    id: "report",
    label: "Report",
    lead,
    elements: [csv.element, note],
    pointers: { "/input/csv": csv, "/input": csv },
    read,
  };
}

/** @returns {JobForm} */
function imageForm() {
  const file = /** @type {HTMLInputElement} */ (h("input", { type: "file", accept: "image/*" }));
  const image = field("Image", file, {
    hint: `Over ${formatBytes(MAX_IMAGE_BYTES)} it is scaled down here first. None chosen: the built-in sample is used.`,
  });
  const read = async () => {
    const [chosen] = file.files ?? [];
    if (!chosen) return { type: "image.thumbnails", input: { sample: true } };
    const { base64 } = await imageToFit(chosen, MAX_IMAGE_BYTES).catch((error) => {
      throw new FieldProblem("/input/image", error.message);
    });
    return { type: "image.thumbnails", input: { image: base64 } };
  };
  const lead = "Makes small versions of a picture and attaches them to the job.";
  return { id: "image", label: "Images", lead, elements: [image.element], pointers: { "/input": image }, read };
}

/** @returns {JobForm} */
function echoForm() {
  const value = field("Value", h("input", { type: "text", value: "hello", maxlength: 10000 }), {
    hint: "Comes back as the result",
  });
  const seconds = numberField("Seconds", { value: "3", min: 0, max: 3600 });
  const steps = numberField("Steps", { value: "10", step: "1", min: 0, max: 10000 });
  const fail = checkField("Fail at the end, to see retries");
  const read = async () => ({
    type: "echo",
    input: {
      value: value.control.value,
      seconds: readNumber(seconds, "/input/seconds") ?? 0,
      steps: readNumber(steps, "/input/steps") ?? 1,
      ...(fail.control.checked ? { fail: true } : {}),
    },
  });
  const elements = [value.element, h("div", { class: "fields" }, seconds.element, steps.element), fail.element];
  const pointers = { "/input": value, "/input/value": value, "/input/seconds": seconds, "/input/steps": steps };
  return {
    id: "echo",
    label: "Echo",
    lead: "Takes its time, reports progress, and gives back what it got.",
    elements,
    pointers,
    read,
  };
}

/** @returns {JobForm} */
function anyForm() {
  const sample = selectField(
    "Begin with",
    SAMPLES.map(({ label }, at) => [String(at), label]),
  );
  const type = field(
    "Type",
    h("input", { type: "text", spellcheck: "false", autocapitalize: "none", autocomplete: "off" }),
  );
  const area = h("textarea", { spellcheck: "false", rows: 7 });
  const input = field("Input (JSON)", area);
  const begin = () => {
    const chosen = SAMPLES[Number(sample.control.value)];
    type.control.value = chosen.type;
    input.control.value = JSON.stringify(chosen.input, null, 2);
    for (const each of [type, input]) each.setError("");
  };
  sample.control.addEventListener("change", begin);
  begin();
  const delay = numberField("Delay (seconds)", { placeholder: "0" });
  const read = async () => {
    const name = type.control.value.trim();
    if (!name) throw new FieldProblem("/type", "A job needs a type");
    const wait = readNumber(delay, "/delay");
    return {
      type: name,
      input: readJson(input.control.value, "/input"),
      ...(wait === undefined ? {} : { delay: wait }),
    };
  };
  const pointers = { "/type": type, "/input": input, "/delay": delay };
  return {
    id: "any",
    label: "Any",
    lead: "Whatever type a worker has registered.",
    elements: [sample.element, type.element, input.element, delay.element],
    pointers,
    read,
  };
}

/** @returns {Field} */
export const priorityField = () =>
  selectField("Priority", [
    ["default", "Default"],
    ["critical", "Critical"],
    ["bulk", "Bulk"],
  ]);

/** @param {() => Promise<string>} loadSample  the sample CSV @returns {JobForm[]} */
export const allForms = (loadSample) => [echoForm(), reportForm(loadSample), imageForm(), anyForm()];
