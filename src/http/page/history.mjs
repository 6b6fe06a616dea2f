// The last hour: events by the minute and how long turns took. What was before the page was opened is looked up in the
// log without reading it: seq goes up by one, so two events with their times say how many there were between them.

const MINUTE = 60000;
/** Minutes that are shown. */
export const SPAN = 60;
/** Places of the past that are looked at. */
const PLACES = 48;
/** Events of the past at most that the daemon searches for turns. */
const SEARCHED = 200000;
/** Seconds over which the present pace is a mean. */
const PACE = 10;
/** Turns that are kept. */
const TURNS = 2000;

/** The numbers behind the chart. */
export class History {
  constructor() {
    this.minutes = new Map();
    this.begun = new Map();
    this.turns = [];
    this.weight = this.weighed = 0;
  }

  /** One event, as it came. */
  count(event) {
    const at = Date.parse(event.createdAt);
    [this.weight, this.weighed] = [this.pace(at) + 1 / PACE, at];
    this.#add(Math.floor(at / MINUTE), 1);
    if (this.minutes.size > 4 * SPAN) this.minutes.delete(this.minutes.keys().next().value);
    this.turn(event);
  }

  #add(minute, events) {
    this.minutes.set(minute, (this.minutes.get(minute) ?? 0) + events);
  }

  /** Events a second at present: a mean in which the last count most. */
  pace(now) {
    return this.weight * Math.exp((this.weighed - now) / 1000 / PACE);
  }

  /** Beginning or end of a turn. */
  turn({ type, detail, createdAt }) {
    if (type === "app-server.turn.started") {
      this.begun.set(detail?.turnId, Date.parse(createdAt));
      if (this.begun.size > TURNS) this.begun.delete(this.begun.keys().next().value);
    } else if (type === "app-server.turn.completed" && this.begun.has(detail?.turnId)) {
      const at = Date.parse(createdAt);
      this.turns.push({ at, took: at - this.begun.get(detail.turnId), status: detail.status });
      this.begun.delete(detail.turnId);
      if (this.turns.length > TURNS) this.turns.shift();
    }
  }

  /** Spreads what was between known places `{seq, at}` evenly over the time between them. */
  spread(places) {
    for (let i = 1; i < places.length; i += 1) {
      const [a, b] = [places[i - 1], places[i]];
      const events = b.seq - a.seq;
      const time = Math.max(b.at - a.at, 1);
      for (let minute = Math.floor(a.at / MINUTE); minute * MINUTE < a.at + time; minute += 1) {
        const part = Math.min(a.at + time, (minute + 1) * MINUTE) - Math.max(a.at, minute * MINUTE);
        this.#add(minute, (events * part) / time);
      }
    }
  }

  /** Events a second in each of the last minutes, oldest first; of the present minute what is over of it. */
  rates(now) {
    const last = Math.floor(now / MINUTE);
    return Array.from({ length: SPAN }, (_, i) => {
      const minute = last - SPAN + 1 + i;
      const seconds = minute === last ? Math.max((now - minute * MINUTE) / 1000, 5) : 60;
      return (this.minutes.get(minute) ?? 0) / seconds;
    });
  }

  /** The turns that ended within the time shown. */
  recent(now) {
    return this.turns.filter((turn) => turn.at > now - SPAN * MINUTE);
  }
}

/** The middle of some numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

/**
 * Looks up the last hour up to `until` (a seq), in a log that begins with `oldest`. `page(query)` gives a page of the log.
 * Returns `{places, turns}`: known places, and the beginnings and ends of turns.
 */
export async function lookBack(page, oldest, until, now) {
  const since = now - SPAN * MINUTE;
  const place = async (seq) => {
    const { events } = await page(`after=${seq - 1}&limit=1`);
    return events.length ? { seq: events[0].seq, at: Date.parse(events[0].createdAt) } : null;
  };
  if (until < oldest) return { places: [], turns: [] };
  let [low, high] = [oldest, until];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const found = await place(middle);
    if (found?.at < since) low = middle + 1;
    else high = middle;
  }
  const wanted = Array.from({ length: PLACES + 1 }, (_, i) => Math.round(low + ((until - low) * i) / PLACES));
  const places = (await Promise.all(wanted.map(place))).filter((found) => found?.at >= since && found.seq <= until);
  const after = Math.max(low - 1, until - SEARCHED);
  const { events } = await page(`after=${after}&limit=${2 * TURNS}&type=app-server.turn.started&type=app-server.turn.completed`);
  return { places, turns: events.filter((one) => one.seq <= until) };
}
