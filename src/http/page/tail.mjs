// The events in memory: few fields of each, up to a bound, and which of them are on the screen.

/** What is kept of an event; the rest is fetched again when somebody looks at it. */
export function rowOf(event) {
  const detail = event.detail ?? {};
  const params = detail.params ?? {};
  return {
    seq: event.seq,
    at: event.createdAt,
    level: event.level,
    type: event.type,
    text: event.message,
    session: detail.sessionId,
    thread: detail.threadId ?? params.threadId ?? params.thread?.id,
  };
}

/** A row that says that something is not there; it sorts after the last of what is missing. */
export function noteRow(seq, text, at = "") {
  return { seq, at, level: "warn", type: "", text, note: true };
}

/** The row for events that the log does not have any more. */
export const gapRow = ({ from, to }) => noteRow(to, `Events ${from} to ${to} are not in the log any more.`);

/** Whether a row is wanted: `type` is a prefix, `session` an id, `thread` the session's thread. */
export function wants({ type = "", session = "", thread = null }, row) {
  if (row.note) return true;
  if (type !== "" && !row.type.startsWith(type)) return false;
  return session === "" || row.session === session || (thread !== null && row.thread === thread);
}

/** The last events, oldest first: all of them in `rows`, those that are wanted in `shown`. */
export class Tail {
  constructor(bound = 20000) {
    this.bound = bound;
    this.clear();
  }

  clear() {
    this.rows = [];
    this.shown = [];
    this.filter ??= {};
    /** How many of `shown` have been dropped at the top, ever: whoever scrolls moves with them. */
    this.dropped = 0;
  }

  push(row) {
    this.rows.push(row);
    if (wants(this.filter, row)) this.shown.push(row);
    // A twentieth at a time: dropping from the front moves all the rest.
    if (this.rows.length > this.bound * 1.05) {
      this.rows.splice(0, this.rows.length - this.bound);
      const gone = indexOf(this.shown, this.rows[0].seq);
      this.shown.splice(0, gone);
      this.dropped += gone;
    }
  }

  setFilter(filter) {
    this.filter = filter;
    this.shown = this.rows.filter((row) => wants(filter, row));
  }
}

/** The first row with that seq or a later one; the length if there is none. */
export function indexOf(rows, seq) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].seq < seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Which of `count` rows of that height are to be in the document: from `first`, up to but without `end`. */
export function windowOf(count, rowHeight, scrollTop, viewHeight, more = 8) {
  const at = Math.floor(scrollTop / rowHeight);
  const first = Math.max(0, Math.min(at, count) - more);
  return { first, end: Math.min(count, at + Math.ceil(viewHeight / rowHeight) + more) };
}
