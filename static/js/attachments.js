/** Files a job attached. They need the key, so they are fetched and shown from memory, never linked to. */

import { h, icon } from "./dom.js";
import { formatBytes } from "./format.js";

/** @typedef {{name: string, size: number, type: string, url: string}} Attachment */

const MAX_SHOWN = 24;
const MAX_DEPTH = 6;

/**
 * Every attachment anywhere in a result.
 * @param {unknown} value
 * @param {number} [depth]
 * @returns {Attachment[]}
 */
export function attachmentsOf(value, depth = 0) {
  if (depth > MAX_DEPTH || value === null || typeof value !== "object") return [];
  const { name, url, type } = /** @type {any} */ (value);
  if (typeof name === "string" && typeof type === "string" && typeof url === "string" && /\/attachments\//.test(url))
    return [/** @type {any} */ (value)];
  return Object.values(value)
    .flatMap((each) => attachmentsOf(each, depth + 1))
    .slice(0, MAX_SHOWN);
}

export class Attachments {
  /** @param {(url: string, signal: AbortSignal) => Promise<Response>} open */
  constructor(open) {
    this.open = open;
    this.abort = new AbortController();
    /** @type {string[]} */
    this.urls = [];
  }

  /** @param {Attachment[]} files */
  gallery(files) {
    return h("ul", { class: "gallery" }, ...files.map((file) => this.item(file)));
  }

  /** @param {Attachment} file */
  item(file) {
    const frame = h("div", { class: "picture" });
    const link = h(
      "a",
      { class: "button small", download: file.name, "aria-label": `Download ${file.name}` },
      icon("download"),
      "Download",
    );
    link.hidden = true;
    const about = h(
      "figcaption",
      {},
      h("span", { class: "mono", text: file.name }),
      h("span", { class: "muted", text: formatBytes(file.size ?? 0) }),
      link,
    );
    void this.load(file, frame, link);
    return h("li", {}, h("figure", {}, frame, about));
  }

  /** @param {Attachment} file @param {HTMLElement} frame @param {HTMLElement} link */
  async load(file, frame, link) {
    try {
      const blob = await (await this.open(file.url, this.abort.signal)).blob();
      if (this.abort.signal.aborted) return;
      const url = URL.createObjectURL(blob);
      this.urls.push(url);
      link.setAttribute("href", url);
      link.hidden = false;
      if (file.type.startsWith("image/")) frame.replaceChildren(h("img", { src: url, alt: file.name }));
      else frame.replaceChildren(h("span", { class: "muted", text: file.type }));
    } catch (error) {
      if (this.abort.signal.aborted) return;
      frame.replaceChildren(h("span", { class: "muted", text: `Not loaded: ${/** @type {Error} */ (error).message}` }));
    }
  }

  /** Stop loading and give the memory back. */
  close() {
    this.abort.abort();
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
  }
}
