/** Numbers, times and names as people read them. Pure: the present is always an argument. */

const KIB = 1024;

/** @param {number} bytes */
export function formatBytes(bytes) {
  if (bytes < KIB) return `${bytes} B`;
  if (bytes < KIB * KIB) return `${trim(bytes / KIB)} KiB`;
  return `${trim(bytes / KIB / KIB)} MiB`;
}

/** Three significant digits are enough for a size. @param {number} value */
const trim = (value) => (value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, ""));

/**
 * A span of time: `340 ms`, `3.2 s`, `1 m 05 s`, `2 h 10 m`, `3 d 4 h`.
 * @param {number} ms  below zero (clocks that disagree) counts as zero
 * @param {{coarse?: boolean}} [options]  coarse: whole seconds, for a running clock that should not flicker
 */
export function formatDuration(ms, { coarse = false } = {}) {
  const span = Math.max(0, ms);
  if (!coarse && span < 1000) return `${Math.round(span)} ms`;
  if (span < 60_000) return coarse ? `${Math.floor(span / 1000)} s` : `${(span / 1000).toFixed(1)} s`;
  const seconds = Math.floor(span / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${pad(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${pad(Math.floor(seconds / 60) % 60)} m`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor(seconds / 3600) % 24} h`;
}

/** @param {number} value */
const pad = (value) => String(value).padStart(2, "0");

/**
 * Clock time of today, date and time of any other day.
 * @param {string|null|undefined} iso @param {number} now  ms
 */
export function formatWhen(iso, now) {
  if (!iso) return "–";
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return iso;
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  if (date.toDateString() === new Date(now).toDateString()) return clock;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${clock.slice(0, 5)}`;
}

/** The end of an id tells two jobs apart; the beginning is mostly time. @param {string} id */
export function shortId(id) {
  const body = id.replace(/^job_/, "");
  return body.length > 8 ? body.slice(-8) : body;
}

/**
 * Milliseconds a job has run, or `null` when it has not started.
 * @param {import("./types.js").Job} job @param {number} now  ms
 */
export function ranFor(job, now) {
  if (!job.started_at) return null;
  const end = job.finished_at ? Date.parse(job.finished_at) : now;
  return Math.max(0, end - Date.parse(job.started_at));
}

/** `0.42` → `42 %`. Only the end is 100 %. @param {number} fraction */
export function formatPercent(fraction) {
  return `${fraction >= 1 ? 100 : Math.min(99, Math.floor(fraction * 100))} %`;
}

/**
 * The share that is done, between 0 and 1, or `null` when nobody said.
 * @param {import("./types.js").Progress|null|undefined} progress
 */
export function fractionOf(progress) {
  if (!progress) return null;
  const given = progress.fraction ?? (progress.total ? progress.done / progress.total : null);
  return typeof given === "number" && Number.isFinite(given) ? Math.min(1, Math.max(0, given)) : null;
}

/** A number as short as it stays honest: at most four significant decimals. @param {number} value */
export function formatNumber(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString(
    "en",
    Math.abs(value) >= 1000 ? { maximumFractionDigits: 1 } : { maximumSignificantDigits: 4 },
  );
}

/** @param {number} count @param {string} one @param {string} [many] */
export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** Size of a text on the wire. @param {string} text */
export const byteLength = (text) => new TextEncoder().encode(text).length;
