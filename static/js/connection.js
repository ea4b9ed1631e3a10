/** Showing how live the page is: the indicator in the top bar and, when it is not, a banner that says so. */

import { byId, setAttr, setText } from "./dom.js";
import { formatDuration, formatWhen } from "./format.js";

/** @typedef {import("./live.js").LiveState} LiveState */

/** A break shorter than this is not worth a banner. */
const PATIENCE_MS = 1500;

/**
 * The indicator's words.
 * @param {LiveState} state @param {boolean} online @returns {{phase: string, label: string}}
 */
export function indicator(state, online) {
  if (state.phase !== "live" && !online) return { phase: "offline", label: "Offline" };
  if (state.phase === "live") return { phase: "live", label: "Live" };
  if (state.phase === "closed") return { phase: "closed", label: "Not connected" };
  const label = state.phase === "connecting" ? "Connecting" : "Reconnecting";
  return { phase: state.phase, label: state.failures > 0 ? `${label} · try ${state.failures + 1}` : label };
}

/**
 * The banner's sentence, or "" for none.
 * @param {LiveState} state @param {boolean} online @param {number} now  ms
 */
export function bannerText(state, online, now) {
  if (state.phase === "live" || now - state.since < PATIENCE_MS) return "";
  const since = formatWhen(new Date(state.since).toISOString(), now);
  if (!online) return `You are offline. What is shown was true at ${since}; it catches up by itself.`;
  if (state.phase === "closed") return `Live updates have ended: ${state.reason || "the connection was closed"}.`;
  const next = state.failures > 0 ? ` The next try comes within ${formatDuration(state.within)}.` : "";
  return state.phase === "connecting"
    ? `The live connection is not up yet.${next}`
    : `The live connection was lost at ${since}. What was missed is caught up afterwards.${next}`;
}

export class ConnectionView {
  /** @param {{onRetry: () => void}} options */
  constructor({ onRetry }) {
    /** @type {LiveState|null} */
    this.state = null;
    byId("retry-now").addEventListener("click", onRetry);
    addEventListener("online", () => this.draw());
    addEventListener("offline", () => this.draw());
    setInterval(() => this.draw(), 1000);
  }

  /** @param {LiveState|null} state  `null`: signed out */
  set(state) {
    this.state = state;
    this.draw();
  }

  draw() {
    const box = byId("link");
    const { state } = this;
    box.hidden = !state;
    const text = state ? bannerText(state, navigator.onLine, Date.now()) : "";
    setText(byId("banner-text"), text);
    byId("banner").hidden = !text;
    if (!state) return;
    byId("retry-now").hidden = state.phase === "closed" || !navigator.onLine;
    const { phase, label } = indicator(state, navigator.onLine);
    setAttr(box, "data-phase", phase);
    setText(byId("link-text"), label);
    setAttr(box, "title", state.reason || null);
  }
}
