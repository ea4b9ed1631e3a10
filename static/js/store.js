/**
 * What the page knows of jobs, and how news changes it. Pure but for the `Map` it owns: no DOM, no network, no clock.
 *
 * The one rule: the newest `version` of a job wins. So the list from HTTP, live publications and replays may come
 * in any order and any number of times, and the end is the same.
 */

import { describe, ended } from "./status.js";

/** @typedef {import("./types.js").Job} Job */

export const MAX_JOBS = 500;

/**
 * The job to keep of two. Events carry no `input` and `attempts`; what was fetched stays.
 * @param {Job|undefined} known @param {Job} news
 * @returns {Job}  `known` itself (same object) when the news are old
 */
export function newer(known, news) {
  if (!known) return news;
  if (news.version < known.version) return known;
  if (news.version === known.version && !("input" in news && !("input" in known))) return known;
  const merged = { ...news };
  if (!("input" in news) && "input" in known) merged.input = known.input;
  if (!("attempts" in news) && "attempts" in known) merged.attempts = known.attempts;
  return merged;
}

/** Newest first; the id decides between jobs of the same millisecond. @param {Job} a @param {Job} b */
export function byCreation(a, b) {
  if (a.created_at !== b.created_at) return a.created_at < b.created_at ? 1 : -1;
  return a.id < b.id ? 1 : a.id > b.id ? -1 : 0;
}

/**
 * @param {Job} job
 * @param {{group: string, text: string}} filter  the text is looked for in id, type, owner, status and message
 */
export function matches(job, { group, text }) {
  if (group !== "all" && describe(job.status).group !== group) return false;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const hay = [job.id, job.type, job.owner, job.status, job.progress?.message, job.error?.message]
    .join(" ")
    .toLowerCase();
  return words.every((word) => hay.includes(word));
}

/** Jobs per filter. @param {Iterable<Job>} jobs @returns {Record<string, number>} */
export function countByGroup(jobs) {
  /** @type {Record<string, number>} */
  const counts = { all: 0 };
  for (const job of jobs) {
    const { group } = describe(job.status);
    counts.all += 1;
    counts[group] = (counts[group] ?? 0) + 1;
  }
  return counts;
}

/**
 * The jobs to forget so that at most `max` stay: ended ones first, then the oldest.
 * @param {Iterable<Job>} jobs @param {number} max @returns {string[]} their ids
 */
export function surplus(jobs, max) {
  const all = [...jobs];
  if (all.length <= max) return [];
  const oldestFirst = all.sort((a, b) => byCreation(b, a));
  const gone = oldestFirst.filter((job) => ended(job.status));
  const open = oldestFirst.filter((job) => !ended(job.status));
  return [...gone, ...open].slice(0, all.length - max).map((job) => job.id);
}

/** The jobs on the page: at most `max`, the newest version of each. */
export class JobStore {
  /** @param {number} [max] */
  constructor(max = MAX_JOBS) {
    this.max = max;
    /** @type {Map<string, Job>} */
    this.jobs = new Map();
  }

  /**
   * Take news of one job.
   * @param {Job} news
   * @returns {{changed: boolean, previous: Job|undefined, removed: string[]}}  `removed`: pushed out by the bound
   */
  apply(news) {
    const previous = this.jobs.get(news.id);
    const job = newer(previous, news);
    if (job === previous) return { changed: false, previous, removed: [] };
    this.jobs.set(job.id, job);
    const removed = this.jobs.size > this.max ? surplus(this.jobs.values(), this.max) : [];
    for (const id of removed) this.jobs.delete(id);
    return { changed: true, previous, removed };
  }

  /** Forget everything, as on signing out. */
  clear() {
    this.jobs.clear();
  }
}
