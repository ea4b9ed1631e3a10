/** The composition of the page: session, list, one job, live connection. */

import { Api, Problem } from "./api.js";
import { ConnectionView } from "./connection.js";
import { byId, setAttr } from "./dom.js";
import { Endings } from "./endings.js";
import { JobView } from "./job.js";
import { JobsView } from "./jobs.js";
import { Live } from "./live.js";
import { parseRoute, startRouter } from "./router.js";
import { loadKey, saveKey, takeKeyFromAddress } from "./session.js";
import { ended } from "./status.js";
import { JobStore } from "./store.js";
import { SubmitPanel } from "./submit.js";
import { setUpTheme } from "./theme.js";

/** @typedef {import("./types.js").Job} Job */

class Page {
  constructor() {
    /** @type {Api} */
    this.api = new Api("");
    /** @type {Live|null} */
    this.live = null;
    /** @type {string|undefined} the view that is shown */
    this.place = undefined;
    /** @type {string|null} */
    this.lastOpened = null;
    const shared = { api: () => this.api, onProblem: (problem) => this.concern(problem) };
    this.store = new JobStore();
    this.endings = new Endings();
    this.jobs = new JobsView({ store: this.store, ...shared });
    this.job = new JobView(byId("view-job"), {
      live: () => /** @type {Live} */ (this.live),
      onJob: (job) => this.take(job),
      ...shared,
    });
    this.connection = new ConnectionView({ onRetry: () => this.live?.retryNow() });
    new SubmitPanel(byId("submit"), { onJob: (job) => this.take(job), ...shared });
  }

  /** News of a job. @param {Job} news */
  take(news) {
    const { input: _, attempts: __, ...job } = news; // the list stays small: inputs may have 256 KiB each
    const { changed, previous } = this.jobs.apply(job);
    if (changed && previous && !ended(previous.status) && ended(job.status)) this.endings.add(job);
  }

  /** A refused key ends the session, wherever it shows. @param {Problem} problem */
  concern(problem) {
    if (problem.unauthenticated) this.signOut("The key is not accepted any more.");
  }

  /**
   * @param {string} key
   * @param {boolean} known  it worked before: while the gateway is away, the page starts and waits for it
   * @throws {Problem} when the gateway does not take it
   */
  async signIn(key, known) {
    const api = new Api(key);
    const token = await api.mintToken().catch((error) => {
      const away = error instanceof Problem && (error.status === 0 || error.status >= 500);
      if (known && away) return null;
      throw error;
    });
    this.api = api;
    saveKey(key);
    this.start(token);
  }

  /** @param {string|null} token  one that was just minted, for the first connect */
  start(token) {
    this.live = new Live({
      mintToken: () => {
        const first = token;
        token = null;
        return first ? Promise.resolve(first) : this.mintAgain();
      },
      onState: (state) => this.connection.set(state),
      onRefused: (reason) => this.live && this.connection.set({ ...this.live.state, reason }),
    });
    this.live.watch("jobs", {
      onEvent: (event) => event?.data?.id && this.take(event.data),
      // A list that failed to load is not made whole by what comes after it.
      onReady: ({ recovered }) => (recovered && this.jobs.state === "ready") || void this.jobs.reload(),
    });
    byId("sign-out").hidden = false;
    this.show();
    void this.jobs.reload(); // the list does not wait for the live connection
    this.live.start();
  }

  /** @returns {Promise<string>} */
  async mintAgain() {
    try {
      return await this.api.mintToken();
    } catch (error) {
      if (error instanceof Problem) this.concern(error);
      throw error;
    }
  }

  /** @param {string} [why] */
  signOut(why = "") {
    saveKey(null);
    this.api = new Api("");
    this.job.close();
    this.live?.close();
    this.live = null;
    this.connection.set(null);
    this.jobs.clear();
    byId("sign-out").hidden = true;
    byId("key").value = "";
    this.show();
    showKeyError(why);
  }

  /** Show what the address names. */
  show() {
    const route = parseRoute(location.hash);
    const place = this.live ? route.name : "sign-in";
    for (const name of ["sign-in", "jobs", "job"]) byId(`view-${name}`).hidden = name !== place;
    if (place === "job" && route.name === "job") this.job.open(route.id);
    else this.job.close();
    if (place !== "job") document.title = "Notification gateway";
    this.moveFocus(place, route.name === "job" ? route.id : null);
  }

  /**
   * Focus follows the view, or a keyboard's next Tab would start from nowhere.
   * @param {string} place
   * @param {string|null} id
   */
  moveFocus(place, id) {
    const moved = this.place !== undefined && this.place !== place;
    if (place === "sign-in") byId("key").focus();
    else if (moved && !(place === "jobs" && this.jobs.focus(this.lastOpened)))
      byId("main").focus({ preventScroll: true });
    this.place = place;
    this.lastOpened = id ?? this.lastOpened;
  }
}

/** @param {string} text */
function showKeyError(text) {
  byId("key-error").textContent = text;
  setAttr(byId("key"), "aria-invalid", text ? "true" : null);
}

/** @param {Page} page */
function setUpSignIn(page) {
  const form = byId("sign-in-form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!key) return showKeyError("Enter an API key.");
    showKeyError("");
    await trySignIn(page, key);
  });
}

/** @param {Page} page @param {string} key @param {boolean} [known] */
async function trySignIn(page, key, known = false) {
  const button = byId("sign-in-form").querySelector("button");
  setAttr(button, "aria-busy", "true");
  try {
    await page.signIn(key, known);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    page.signOut();
    showKeyError(error.unauthenticated ? "This key is not accepted." : `${error.message}.`.replace(/\.\.$/, "."));
    byId("key").value = key;
  } finally {
    setAttr(button, "aria-busy", null);
  }
}

/** @param {Page} page */
function setUpShell(page) {
  setUpTheme(byId("theme"));
  byId("sign-out").addEventListener("click", () => page.signOut());
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the hash is the page's address
    byId("main").focus();
  });
  const toggle = byId("toggle-submit");
  toggle.addEventListener("click", () => {
    const open = byId("submit").classList.toggle("open");
    setAttr(toggle, "aria-expanded", String(open));
    if (open) byId("submit").querySelector('[role="tab"][tabindex="0"]').focus();
  });
}

async function begin() {
  const given = takeKeyFromAddress();
  const page = new Page();
  setUpShell(page);
  setUpSignIn(page);
  const key = given ?? loadKey();
  if (key) await trySignIn(page, key, !given);
  addEventListener("hashchange", () => {
    const other = takeKeyFromAddress(); // the printed address, opened in a tab that is here already
    if (!other) return;
    page.signOut();
    void trySignIn(page, other);
  });
  startRouter((route) => {
    page.show();
    if (route.name === "job") scrollTo(0, 0);
  });
}

void begin();
