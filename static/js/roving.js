/** One tab stop for a group; the arrow keys move inside it (ARIA Authoring Practices, "roving tabindex"). */

const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

/**
 * Where a key leads.
 * @param {string} key @param {number} index @param {number} count
 * @param {boolean} wrap  the last is followed by the first
 * @returns {number|null}  `null`: not a key of ours
 */
export function nextIndex(key, index, count, wrap) {
  if (count === 0) return null;
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  const step = STEPS[/** @type {keyof typeof STEPS} */ (key)];
  if (!step) return null;
  const next = index + step;
  return wrap ? (next + count) % count : Math.min(count - 1, Math.max(0, next));
}

/**
 * @param {HTMLElement} container
 * @param {{items: () => HTMLElement[], wrap?: boolean, onMove?: (item: HTMLElement) => void, axis?: "x"|"y"|"both"}} options
 */
export function rove(container, { items, wrap = false, onMove, axis = "both" }) {
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (axis === "y" && (event.key === "ArrowLeft" || event.key === "ArrowRight")) return;
    const all = items();
    const index = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (index < 0) return;
    const next = nextIndex(event.key, index, all.length, wrap);
    if (next === null) return;
    event.preventDefault();
    onMove?.(all[next]);
    all[next].focus();
  });
}
