/** A job's log as a story: what happened, when, and how long after the step before. Pure. */

import { formatDuration, formatWhen, fractionOf } from "./format.js";
import { describe } from "./status.js";

/** @typedef {import("./types.js").CloudEvent} CloudEvent */
/**
 * @typedef {object} Entry
 * @property {string} key  stays the same while an entry grows
 * @property {string} type  of the event
 * @property {string} label
 * @property {string} tone
 * @property {string} time  RFC 3339
 * @property {string} after  time since the entry before, "" for the first
 * @property {string} detail
 * @property {CloudEvent[]} updates  the progress events this entry stands for; empty for all others
 */

/** @type {Record<string, string>} */
const LABELS = { "job.started": "Started", "job.progress": "Progress", "job.step": "Step" };

/**
 * Events in order, each once. A job's events are numbered by the job's version.
 * @param {Iterable<CloudEvent>} events
 */
export function inOrder(events) {
  const byKey = new Map([...events].map((event) => [event.id, event]));
  return [...byKey.values()].sort(
    (a, b) => (a.data.version ?? 0) - (b.data.version ?? 0) || (a.time < b.time ? -1 : 1),
  );
}

/** Runs of progress become one entry each. @param {CloudEvent[]} events  in order @returns {Entry[]} */
export function buildTimeline(events) {
  /** @type {Entry[]} */
  const entries = [];
  /** @type {CloudEvent|null} */
  let previous = null;
  for (const event of events) {
    const last = entries[entries.length - 1];
    if (event.type === "job.progress" && last?.type === "job.progress") {
      last.updates.push(event);
      last.detail = progressDetail(last.updates);
    } else entries.push(entryOf(event, previous));
    previous = event;
  }
  return entries;
}

/** @param {CloudEvent} event @param {CloudEvent|null} previous @returns {Entry} */
function entryOf(event, previous) {
  const kind = event.type.replace(/^job\./, "");
  const updates = event.type === "job.progress" ? [event] : [];
  return {
    key: event.id,
    type: event.type,
    label: LABELS[event.type] ?? describe(kind).label,
    tone: kind === "started" || kind === "progress" || kind === "step" ? "busy" : describe(kind).tone,
    time: event.time,
    after: previous ? `+${formatDuration(Date.parse(event.time) - Date.parse(previous.time))}` : "",
    detail: updates.length > 0 ? progressDetail(updates) : detailOf(kind, event.data),
    updates,
  };
}

/** @param {CloudEvent[]} updates */
function progressDetail(updates) {
  const message = updates[updates.length - 1].data.progress?.message ?? "";
  return [updates.length > 1 ? `${updates.length} updates` : "", message].filter(Boolean).join(" · ");
}

/** @param {string} kind @param {import("./types.js").Job} job */
function detailOf(kind, job) {
  if (kind === "started")
    return [job.run > 1 ? `Run ${job.run}` : "", `Attempt ${job.attempt} of ${job.max_attempts}`]
      .filter(Boolean)
      .join(" · ");
  if (kind === "step") return `${job.step} ${job.steps?.find(({ name }) => name === job.step)?.status ?? ""}`;
  if (kind === "failed") return job.error?.message ?? "";
  if (kind === "scheduled")
    return job.run_after ? `Starts ${formatWhen(job.run_after, Date.parse(job.created_at))}` : "";
  if (kind === "retrying")
    return [job.error?.message, job.run_after && `next try ${formatWhen(job.run_after, Date.parse(job.run_after))}`]
      .filter(Boolean)
      .join(" · ");
  if (kind === "succeeded" && job.started_at && job.finished_at)
    return `After ${formatDuration(Date.parse(job.finished_at) - Date.parse(job.started_at))} of work`;
  return "";
}

/**
 * The line of a progress chart in a box of 100 × 24: time to the right, the share done upwards.
 * @param {CloudEvent[]} updates @returns {string} points for an SVG polyline; "" when there is nothing to draw
 */
export function progressLine(updates) {
  const points = updates.flatMap((event) => {
    const fraction = fractionOf(event.data.progress);
    return fraction === null ? [] : [{ at: Date.parse(event.time), fraction }];
  });
  if (points.length < 3) return "";
  const start = points[0].at;
  const span = Math.max(1, points[points.length - 1].at - start);
  return points
    .map(({ at, fraction }) => `${(((at - start) / span) * 100).toFixed(1)},${(23 - fraction * 22).toFixed(1)}`)
    .join(" ");
}
