// The event stream: one WebSocket after the other, all with one cursor, so that every event comes once, whatever happens
// to the connection, the daemon or the machine.

import { Backoff, Cursor } from "./cursor.mjs";

/** Silence after which the daemon is asked whether it is there. */
const QUIET = 15000;
/** Time for its answer, and for a connection. */
const PATIENCE = 5000;
/** How often is looked; a look that comes much later than that means that the machine has slept. */
const LOOK = 1000;

/**
 * Keeps a stream open. `on` is told of everything:
 * hello(message), event(event, hole), gap({from, to}), synced(seq, sameLog), state({name, …}), refused().
 * The names of a state: connecting; catching; live; away, with `why`: the daemon stops, this page lagged.
 */
export class Stream {
  /** `url()` and `protocols()` are asked at each attempt. `after`: the cursor to begin with. */
  constructor({ url, protocols, after, on }) {
    Object.assign(this, { url, protocols, on });
    this.cursor = new Cursor(after);
    this.backoff = new Backoff();
    this.looked = Date.now();
    this.looker = setInterval(() => this.#look(), LOOK);
    this.ended = new AbortController();
    const nudge = () => document.hidden || this.#wake();
    for (const sign of ["online", "pageshow"]) addEventListener(sign, nudge, this.ended);
    document.addEventListener("visibilitychange", nudge, this.ended);
    this.#connect();
  }

  /** Ends it for good. */
  close() {
    clearInterval(this.looker);
    clearTimeout(this.timer);
    this.ended.abort();
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  #connect() {
    clearTimeout(this.timer);
    const url = new URL(this.url());
    if (this.cursor.seq !== null) url.searchParams.set("after", this.cursor.seq);
    const socket = new WebSocket(url, this.protocols());
    this.socket = socket;
    this.heard = Date.now();
    this.asked = null;
    this.opened = false;
    this.on.state({ name: "connecting" });
    const mine = (handle) => (event) => this.socket === socket && handle(event);
    socket.onmessage = mine(({ data }) => this.#message(JSON.parse(data)));
    socket.onclose = mine(({ code, reason }) => this.#lost(code, reason));
  }

  #message(message) {
    this.heard = Date.now();
    this.asked = null;
    const { type, event, seq } = message;
    if (type === "hello") {
      this.opened = true;
      this.backoff.reset();
      this.on.hello(message);
      this.on.state({ name: "catching" });
    } else if (type === "event") {
      const taken = this.cursor.take(event.seq);
      if (taken !== "repeat") this.on.event(event, taken === "next" ? null : taken);
    } else if (type === "gap") {
      if (this.cursor.gap(message)) this.on.gap(message);
    } else if (type === "synced") {
      this.on.synced(seq, this.cursor.synced(seq));
      this.on.state({ name: "live" });
    }
  }

  #lost(code, reason) {
    this.socket = null;
    // A refused handshake shows no status: whoever has the token's form finds out.
    if (!this.opened) this.on.refused();
    const pause = code === 1013 ? 0 : this.backoff.next();
    this.on.state({ name: "away", why: reason });
    this.timer = setTimeout(() => this.#connect(), pause);
  }

  /** Something has changed: no reason to wait any longer. */
  #wake() {
    if (this.socket === null) this.#connect();
    else this.#ask();
  }

  /** Asks the daemon for a sign of life. */
  #ask() {
    if (this.asked !== null || this.socket?.readyState !== WebSocket.OPEN) return;
    this.asked = Date.now();
    this.socket.send('{"type":"ping"}');
  }

  #look() {
    const now = Date.now();
    const slept = now - this.looked > 5 * LOOK;
    this.looked = now;
    if (slept) {
      // What was waited for may have come meanwhile and only waits to be handled.
      this.asked = null;
      this.heard = now;
      return this.#wake();
    }
    if (this.socket === null) return;
    const waiting = this.asked ?? (this.socket.readyState === WebSocket.CONNECTING ? this.heard : now);
    if (now - waiting > PATIENCE) {
      const socket = this.socket;
      this.#lost(0, "no answer");
      socket.close();
    } else if (now - this.heard > QUIET) {
      this.#ask();
    }
  }
}
