// The page's place in the log, and how long it waits before it asks again. Nothing here touches the browser.

/** Where the page stands: the last seq it has; null, which is less than any, before the first. */
export class Cursor {
  constructor(seq = null) {
    this.seq = seq;
  }

  /**
   * An event has come. `"next"`: it is to be shown; `"repeat"`: it was, or is from before the beginning.
   * `{from, to}`: it is to be shown, but these before it never came, which the daemon rules out; it is shown all the same.
   */
  take(seq) {
    const last = this.seq;
    if (seq <= last) return "repeat";
    this.seq = seq;
    return last === null || seq === last + 1 ? "next" : { from: last + 1, to: seq - 1 };
  }

  /** The daemon says that these are not in the log any more. Whether that is news. */
  gap({ to }) {
    if (to <= this.seq) return false;
    this.seq = to;
    return true;
  }

  /** The daemon says that everything up to `seq` was sent. False when that is less than what we have: another log. */
  synced(seq) {
    const same = seq >= this.seq;
    this.seq = seq;
    return same;
  }
}

/** The first pause and the longest. */
const [FIRST, MOST] = [300, 5000];

/** Growing pauses between attempts, in milliseconds, with jitter so that not all pages of a host come at once. */
export class Backoff {
  constructor(random = Math.random) {
    this.random = random;
    this.reset();
  }

  /** It went well: the next pause is a short one. */
  reset() {
    this.step = FIRST;
  }

  /** The next pause: between half of the step and the whole. */
  next() {
    const pause = this.step * (0.5 + this.random() / 2);
    this.step = Math.min(this.step * 1.8, MOST);
    return Math.round(pause);
  }
}
