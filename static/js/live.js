/** The live connection: the `centrifuge` client, with a state the page can show. */

import "../vendor/centrifuge/centrifuge.js";
import { Problem } from "./api.js";

/** The vendored build is a classic script that leaves its class on the global object. @type {any} */
const Centrifuge = /** @type {any} */ (globalThis).Centrifuge;

const MIN_DELAY_MS = 500;
const MAX_DELAY_MS = 20_000;

/**
 * @typedef {object} LiveState
 * @property {"connecting"|"live"|"reconnecting"|"closed"} phase
 * @property {number} failures  tries that failed since the connection was last up
 * @property {number} since  ms, when this phase began
 * @property {number} within  ms, the longest the client waits before its next try
 * @property {string} reason
 */

/**
 * @typedef {{onEvent: (event: any, offset: number) => void, onReady: (ctx: {recovered: boolean}) => void, onRefused?: (reason: string) => void}} Watcher
 */

/** Upper bound of the client's jittered backoff before try number `failures + 1`. @param {number} failures */
export function longestWait(failures) {
  return Math.min(MAX_DELAY_MS, MIN_DELAY_MS + Math.min(MAX_DELAY_MS, MIN_DELAY_MS * 2 ** Math.max(0, failures - 1)));
}

export class Live {
  /**
   * @param {{mintToken: () => Promise<string>, onState: (state: LiveState) => void, onRefused: (reason: string) => void}} options
   *   `onRefused`: the gateway will not have us; trying again is useless
   */
  constructor({ mintToken, onState, onRefused }) {
    this.onState = onState;
    this.wasLive = false;
    this.failures = 0;
    this.muted = false;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.client = new Centrifuge(`${scheme}://${location.host}/connection/websocket`, {
      getToken: () => mintToken().catch(refuseForGood),
      minReconnectDelay: MIN_DELAY_MS,
      maxReconnectDelay: MAX_DELAY_MS,
      name: "dashboard",
    });
    this.client.on("connecting", (ctx) => this.report(this.wasLive ? "reconnecting" : "connecting", ctx.reason));
    this.client.on("connected", () => this.connected());
    this.client.on("error", (ctx) => this.failed(ctx));
    this.client.on("disconnected", (ctx) => {
      this.report("closed", ctx.reason);
      if (ctx.code !== 0) onRefused(ctx.reason);
    });
  }

  start() {
    this.client.connect();
  }

  connected() {
    this.wasLive = true;
    this.failures = 0;
    this.report("live", "");
  }

  /** @param {{type: string, error: {message: string}}} ctx */
  failed(ctx) {
    if (this.client.state !== "connecting") return;
    this.failures += 1;
    this.report(this.wasLive ? "reconnecting" : "connecting", ctx.error?.message ?? ctx.type);
  }

  /** @param {LiveState["phase"]} phase @param {string} reason */
  report(phase, reason) {
    if (this.muted) return;
    const same = this.state?.phase === phase;
    this.state = {
      phase,
      reason,
      failures: this.failures,
      since: same ? this.state.since : Date.now(),
      within: longestWait(this.failures),
    };
    this.onState(this.state);
  }

  /** Try now instead of waiting out the backoff; positions are kept, so what was missed is recovered. */
  retryNow() {
    if (this.client.state !== "connecting") return;
    this.muted = true; // "closed" for a moment is nothing to show
    this.client.disconnect();
    this.muted = false;
    this.client.connect();
  }

  /**
   * Follow a channel. `onReady` is called on every (re)subscription; `recovered` false means that events may have been
   * missed since the last one, so what is shown has to be loaded again.
   * @param {string} channel @param {Watcher} watcher @returns {() => void} stop following
   */
  watch(channel, watcher) {
    const subscription = this.client.newSubscription(channel, { recoverable: true, positioned: true });
    subscription.on("publication", (ctx) => watcher.onEvent(ctx.data, ctx.offset ?? 0));
    subscription.on("subscribed", (ctx) => watcher.onReady({ recovered: Boolean(ctx.recovered) }));
    subscription.on("unsubscribed", (ctx) => {
      if (ctx.code !== 0) watcher.onRefused?.(ctx.reason);
    });
    subscription.subscribe();
    return () => {
      subscription.unsubscribe();
      this.client.removeSubscription(subscription);
    };
  }

  close() {
    this.muted = true;
    this.client.disconnect();
  }
}

/**
 * A refused key ends the connection; anything else is tried again.
 * @param {unknown} error
 * @returns {never}
 */
function refuseForGood(error) {
  if (error instanceof Problem && (error.status === 401 || error.status === 403))
    throw new Centrifuge.UnauthorizedError(error.message);
  throw error;
}
