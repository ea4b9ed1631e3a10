/** Making elements without ever parsing HTML: what comes from a job is only ever text. */

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node|string|number|null|undefined|false} Child */

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [props]  `class`, `text`, `on` (listeners), `data` (dataset); the rest are
 *   attributes, where `true` is an empty attribute and `false`, `null`, `undefined` are left out
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  return /** @type {HTMLElement} */ (fill(document.createElement(tag), props, children));
}

/**
 * The same for SVG.
 * @param {string} tag
 * @param {Record<string, unknown>} [props]
 * @param {...Child} children
 */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** @param {Element} element @param {Record<string, any>} props @param {Child[]} children */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") element.textContent = String(value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(/** @type {HTMLElement} */ (element).dataset, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/**
 * The element with this id; the page's own markup, so a missing one is a mistake of ours.
 * @param {string} id @returns {any}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/**
 * Write only what differs: an untouched node costs no layout and is not read out again.
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Element} element @param {string} name @param {string|null} value  `null` removes it */
export function setAttr(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const ICONS = {
  copy: "M5.5 5.5V3.2c0-.7.5-1.2 1.2-1.2h6.1c.7 0 1.2.5 1.2 1.2v6.1c0 .7-.5 1.2-1.2 1.2h-2.3M3.2 5.5h6.1c.7 0 1.2.5 1.2 1.2v6.1c0 .7-.5 1.2-1.2 1.2H3.2c-.7 0-1.2-.5-1.2-1.2V6.7c0-.7.5-1.2 1.2-1.2Z",
  check: "m3 8.5 3.2 3.2L13 4.8",
  back: "M9.5 3.5 5 8l4.5 4.5",
  download: "M8 2.5v7.6m0 0L4.9 7M8 10.1 11.1 7M2.5 13.5h11",
};

/** A small decorative icon; the button around it carries the name. @param {keyof typeof ICONS} name */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/**
 * A button that copies text and says so.
 * @param {string} name  accessible name, as "Copy job id"
 * @param {() => string} text
 */
export function copyButton(name, text) {
  const button = h("button", { type: "button", class: "icon-button", "aria-label": name, title: name }, icon("copy"));
  button.addEventListener("click", async () => {
    const done = await copyText(text());
    button.replaceChildren(icon(done ? "check" : "copy"));
    announce(done ? "Copied" : "Copying is not allowed here");
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return button;
}

/**
 * Clipboard access needs a secure context and permission; a refusal is an answer here.
 * @param {string} text
 */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Say something politely to a screen reader. @param {string} text */
export function announce(text) {
  byId("announcer").textContent = text;
}
