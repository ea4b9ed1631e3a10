/** What stands below the list when its rows do not speak for themselves: loading, empty, failed. */

import { Problem } from "./api.js";
import { h } from "./dom.js";

/** @typedef {"loading"|"ready"|Problem} ListState */

/**
 * @param {ListState} state @param {number} known @param {number} shown @param {() => void} retry
 * @returns {HTMLElement[]}
 */
export function stateOf(state, known, shown, retry) {
  if (state instanceof Problem) {
    const again = h("button", { type: "button", class: "button small", text: "Load again", on: { click: retry } });
    return [
      h(
        "div",
        { class: "empty", role: "alert" },
        h("h2", { text: "The list could not be loaded" }),
        h("p", { text: state.message }),
        again,
      ),
    ];
  }
  if (state === "loading" && known === 0) {
    return [
      h("span", { class: "visually-hidden", text: "Loading jobs" }),
      ...Array.from({ length: 6 }, () => h("div", { class: "skeleton" })),
    ];
  }
  if (known === 0) {
    return [
      h(
        "div",
        { class: "empty" },
        h("h2", { text: "No jobs yet" }),
        h("p", { text: "Submit one: it appears here at once and moves without reloading." }),
      ),
    ];
  }
  if (shown === 0)
    return [
      h(
        "div",
        { class: "empty" },
        h("h2", { text: "Nothing matches" }),
        h("p", { text: "Choose another status or change the filter." }),
      ),
    ];
  return [];
}
