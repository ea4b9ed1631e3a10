/** The status filter: a radio group with the number of jobs on each choice. */

import { h, setAttr, setText } from "./dom.js";
import { rove } from "./roving.js";
import { GROUPS } from "./status.js";

export class Chips {
  /** @param {HTMLElement} container @param {(group: string) => void} onChoose */
  constructor(container, onChoose) {
    this.onChoose = onChoose;
    this.chosen = "all";
    this.chips = GROUPS.map(({ id, label }) => {
      const count = h("span", { class: "chip-count", text: "0" });
      const button = h(
        "button",
        { type: "button", class: "chip", role: "radio", data: { group: id } },
        label,
        " ",
        count,
      );
      button.addEventListener("click", () => this.choose(id));
      return { id, button, count };
    });
    container.replaceChildren(...this.chips.map((chip) => chip.button));
    rove(container, {
      items: () => this.chips.map((chip) => chip.button),
      wrap: true,
      onMove: (item) => this.choose(item.dataset.group ?? "all"),
    });
    this.show();
  }

  /** @param {string} group */
  choose(group) {
    this.chosen = group;
    this.show();
    this.onChoose(group);
  }

  show() {
    for (const { id, button } of this.chips) {
      setAttr(button, "aria-checked", String(id === this.chosen));
      button.tabIndex = id === this.chosen ? 0 : -1;
    }
  }

  /** @param {Record<string, number>} counts */
  update(counts) {
    for (const { id, count } of this.chips) setText(count, String(counts[id] ?? 0));
  }
}
