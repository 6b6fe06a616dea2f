// The list of events: a window over thousands of rows. The document holds only what can be seen, and its rows are used
// again and again. It shows the live tail, or, after a jump, a part of the past.

import { $, clock, el, number, put, setText, span } from "./dom.mjs";
import { gapRow, indexOf, rowOf, windowOf } from "./tail.mjs";

/** Events of the past that are fetched at a time; with a filter the daemon searches many more. */
const PAGE = 500;
const SEARCH = 10000;
/** Characters of an event's detail that are shown. */
const DETAIL = 200000;

/** The list over a `tail`. `page(query)` gives a page of the log; `filter()` what is wanted. */
export class EventList {
  constructor({ tail, page, filter, changed }) {
    Object.assign(this, { tail, page, filter, changed });
    [this.list, this.spacer] = [$("events-list"), $("events-space")];
    this.pool = [];
    this.measure();
    this.live();
    this.list.addEventListener("scroll", () => this.#scrolled());
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => {
      this.measure();
      this.changed();
    }).observe(this.list);
  }

  /** Looks how high a row is: it depends on the width. */
  measure() {
    this.rowHeight = parseFloat(getComputedStyle(this.list).getPropertyValue("--row")) || 28;
    this.height = this.list.clientHeight;
  }

  get rows() {
    return this.past?.rows ?? this.tail.shown;
  }

  /** Back to the end of the live tail. */
  live() {
    this.past = null;
    this.follow = true;
    this.active = null;
    this.dropped = this.tail.dropped;
    this.changed();
  }

  /** Brings the document up to date; once a frame at most. */
  render() {
    const { rows, rowHeight } = this;
    this.spacer.style.height = `${rows.length * rowHeight}px`;
    if (!this.past) {
      const gone = this.tail.dropped - this.dropped;
      this.dropped = this.tail.dropped;
      if (this.follow) this.list.scrollTop = rows.length * rowHeight;
      else if (gone) this.list.scrollTop -= gone * rowHeight;
    }
    const { first, end } = windowOf(rows.length, rowHeight, this.list.scrollTop, this.height);
    while (this.pool.length < end - first) this.pool.push(this.spacer.appendChild(newRow()));
    this.pool.forEach((node, i) => {
      const at = first + i;
      node.hidden = at >= end;
      if (!node.hidden) this.#fill(node, rows[at], at);
    });
    const active = this.pool.find((node) => !node.hidden && node.seq === this.active);
    if (active) this.list.setAttribute("aria-activedescendant", active.id);
    else this.list.removeAttribute("aria-activedescendant");
    this.list.setAttribute("aria-busy", String(!rows.length));
    const all = this.past ? "of the past" : `of ${number(this.tail.rows.length)}`;
    put("events-count", `${number(rows.length)} ${rows.length === this.tail.rows.length ? "" : all}`);
    $("events-live").hidden = !this.past && this.follow;
    $("events-earlier").hidden = $("events-later").hidden = !this.past;
  }

  #fill(node, row, at) {
    node.style.transform = `translateY(${at * this.rowHeight}px)`;
    node.setAttribute("aria-posinset", at + 1);
    node.setAttribute("aria-setsize", this.rows.length);
    node.setAttribute("aria-selected", String(row.seq === this.active));
    if (node.row === row) return;
    Object.assign(node, { row, seq: row.seq, id: `event-${row.seq}` });
    node.dataset.level = row.level;
    const texts = [row.note ? "" : row.seq, clock(row.at), row.type, row.level === "info" ? row.text : `${row.level}: ${row.text}`];
    texts.forEach((text, i) => setText(node.children[i], text));
  }

  #scrolled() {
    const { scrollTop, scrollHeight } = this.list;
    this.follow = !this.past && scrollTop + this.height >= scrollHeight - 2 * this.rowHeight;
    this.changed();
  }

  #clicked(event) {
    const node = event.target.closest(".event");
    if (!node) return;
    this.active = node.seq;
    this.changed();
    if (!node.row.note) this.open(node.seq);
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.height / this.rowHeight) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Enter" && this.active !== null) return this.open(this.active);
    const { rows } = this;
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey || !rows.length) return;
    event.preventDefault();
    const now = this.active === null ? (step < 0 ? rows.length : -1) : indexOf(rows, this.active);
    this.goTo(Math.max(0, Math.min(rows.length - 1, now + step)));
  }

  /** Makes a row the active one and scrolls until it can be seen. */
  goTo(at) {
    const { rowHeight, height, list } = this;
    this.active = this.rows[at]?.seq ?? null;
    this.follow = !this.past && at === this.rows.length - 1;
    const top = at * rowHeight;
    this.spacer.style.height = `${this.rows.length * rowHeight}px`;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + rowHeight > list.scrollTop + height) list.scrollTop = top + rowHeight - height;
    this.changed();
  }

  /** Shows everything about an event. */
  async open(seq) {
    $("detail").hidden = false;
    put("detail-title", `Event ${seq}`);
    put("detail-text", "…");
    let text;
    try {
      const { events } = await this.page(`after=${seq - 1}&limit=1`);
      text = events[0]?.seq === seq ? JSON.stringify(events[0], null, 2) : "It is not in the log any more.";
    } catch (error) {
      text = error.message;
    }
    put("detail-text", text.length > DETAIL ? `${text.slice(0, DETAIL)}\n… and more` : text);
  }

  /** Jumps to an event, wherever it is. */
  async jump(seq) {
    const { type, session } = this.filter();
    const [back, limit] = type || session ? [SEARCH, SEARCH] : [PAGE / 2, PAGE];
    const after = Math.max(0, seq - back);
    const rows = [];
    let more = true;
    // A page of large events ends early.
    for (let at = after; more && at < seq; at = rows.at(-1)?.seq ?? seq) {
      const query = new URLSearchParams({ after: at, limit });
      if (type) query.set("type", type);
      if (session) query.set("sessionId", session);
      const page = await this.page(query);
      more = page.more;
      if (page.gap) rows.push(gapRow(page.gap));
      rows.push(...page.events.map(rowOf));
    }
    this.past = { rows, after, more };
    const at = Math.min(indexOf(rows, seq), rows.length - 1);
    this.goTo(at);
    // In the middle of the view, not at its edge.
    this.list.scrollTop = at * this.rowHeight - this.height / 2;
  }

  earlier() {
    return this.jump(this.past.after);
  }

  /** At the end of the past comes the live tail. */
  async later() {
    const { rows, more } = this.past;
    return more ? this.jump(rows.at(-1).seq + 1) : this.live();
  }
}

function newRow() {
  return el("div.event", { role: "option" }, ...["seq", "time", "type", "text"].map((name) => span(name)));
}
