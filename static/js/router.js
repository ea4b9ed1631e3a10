/** Two places: `#/` (the list) and `#/jobs/<id>` (one job). */

/** @typedef {{name: "jobs"}|{name: "job", id: string}} Route */

/** @param {string} hash  as `location.hash` @returns {Route} */
export function parseRoute(hash) {
  const found = /^#\/jobs\/([^/?#]+)$/.exec(hash);
  if (!found) return { name: "jobs" };
  try {
    return { name: "job", id: decodeURIComponent(found[1]) };
  } catch {
    return { name: "jobs" };
  }
}

/** @param {string} id */
export const jobHref = (id) => `#/jobs/${encodeURIComponent(id)}`;

/** Call back now and whenever the place changes. @param {(route: Route) => void} show */
export function startRouter(show) {
  addEventListener("hashchange", () => {
    if (location.hash === "" || location.hash.startsWith("#/")) show(parseRoute(location.hash));
  });
  show(parseRoute(location.hash));
}
