/** The theme switch: the system's choice until someone makes their own. `theme-boot.js` applies it before paint. */

import { setAttr } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

/** @returns {"light"|"dark"} */
function current() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return dark.matches ? "dark" : "light";
}

/** @param {HTMLButtonElement} button */
export function setUpTheme(button) {
  const show = () => setAttr(button, "aria-pressed", String(current() === "dark"));
  button.addEventListener("click", () => {
    const theme = current() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // Storage can be forbidden; the choice then lasts as long as the page.
    }
    show();
  });
  dark.addEventListener("change", show);
  show();
}
