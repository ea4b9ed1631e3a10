/** Telling, politely and not too often, which jobs have ended. */

import { announce } from "./dom.js";
import { plural, shortId } from "./format.js";
import { describe } from "./status.js";

const GATHER_MS = 900;

/**
 * One sentence for all that ended: named when it is one, counted when there are more.
 * @param {import("./types.js").Job[]} jobs @returns {string}
 */
export function sentence(jobs) {
  if (jobs.length === 0) return "";
  if (jobs.length === 1)
    return `${jobs[0].type} ${shortId(jobs[0].id)} ${describe(jobs[0].status).label.toLowerCase()}`;
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const job of jobs) counts.set(job.status, (counts.get(job.status) ?? 0) + 1);
  const parts = [...counts].map(([status, count]) => `${count} ${describe(status).label.toLowerCase()}`);
  return `${plural(jobs.length, "job")} ended: ${parts.join(", ")}`;
}

export class Endings {
  constructor() {
    /** @type {Map<string, import("./types.js").Job>} */
    this.gathered = new Map();
  }

  /** @param {import("./types.js").Job} job */
  add(job) {
    if (this.gathered.size === 0) setTimeout(() => this.say(), GATHER_MS);
    this.gathered.set(job.id, job);
  }

  say() {
    announce(sentence([...this.gathered.values()]));
    this.gathered.clear();
  }
}
