// The page: asks for the token if one is needed, opens the stream, and brings on the screen what the other modules make
// of it, once a frame at most.

import { get, open, protocols, setToken, token } from "./api.mjs";
import { renderCharts } from "./chart.mjs";
import { Backoff } from "./cursor.mjs";
import { $, duration, el, number, put } from "./dom.mjs";
import { EventList } from "./events.mjs";
import { History, lookBack } from "./history.mjs";
import { Inbox } from "./inbox.mjs";
import { nameOf, renderHealth, renderRuns, renderSessions, renderVerdict } from "./overview.mjs";
import { State } from "./state.mjs";
import { Stream } from "./stream.mjs";
import { Tail, gapRow, noteRow, rowOf } from "./tail.mjs";
import { Turns } from "./turns.mjs";

/** Events before the present that are loaded at the start. */
const BEFORE = 2000;
/** How often the daemon's readiness is asked for, in milliseconds. */
const READY = 5000;
/** An event that comes that much after it happened means that the page is behind. */
const BEHIND = 3000;

const tail = new Tail();
/** Made anew by each beginning. */
let state, turns, history, stream, link;
let ready, path;
/** The last seq there was when the stream was opened. */
let target = 0;
/** The inbox is shown once the list is there and the stream has caught up: old requests may go by before that. */
let listed, synced;
/** When the last event came, and how late. */
let latest = { heard: 0, late: 0 };

const page = (query) => get(`${path}?${query}`);

// --- What is on the screen ---------------------------------------------------------------------------------------

const dirty = new Set();
let frame;

/** Has these parts drawn in the next frame. */
function changed(...parts) {
  parts.forEach((part) => dirty.add(part));
  frame ??= requestAnimationFrame(() => {
    frame = null;
    const now = new Set(dirty);
    dirty.clear();
    draw(now);
  });
}

const filter = () => {
  const session = $("events-session").value;
  return { type: $("events-type").value.trim(), session, thread: state.sessions.get(session)?.threadId ?? null };
};
const list = new EventList({ tail, page, filter, changed: () => changed("events") });
const inbox = new Inbox({
  settled: (record) => {
    state.putRequest(record);
    changed("inbox", "sessions");
  },
  name: (record) => nameOf(state.sessions.get(record.sessionId)),
});

function draw(parts) {
  const pending = state.pending();
  if (parts.has("inbox") && listed && synced) inbox.render(pending);
  if (parts.has("events")) list.render();
  if (parts.has("sessions")) {
    renderSessions(state, turns, pending);
    for (const session of state.sessions.values()) offer("events-session", session.sessionId, `${nameOf(session)} (${session.sessionId.slice(-6)})`);
  }
  if (parts.has("runs")) renderRuns(state);
  if (parts.has("health")) renderHealth(state, ready, link.name === "away" || link.name === "connecting");
  if (parts.has("charts")) renderCharts(history, Date.now());
  drawLink();
  renderVerdict(state, ready, link.name, listed && synced ? pending.length : null);
}

/** How the stream stands. */
function drawLink() {
  const left = target - (stream?.cursor.seq ?? 0);
  const late = link.name === "live" && Date.now() - latest.heard < 2000 && latest.late > BEHIND;
  const texts = {
    connecting: "Connecting…",
    catching: `Catching up, ${number(Math.max(left, 0))} to go`,
    live: late ? `Behind by ${duration(latest.late)}` : "Live",
    away: `Disconnected${link.why ? `: ${link.why}` : ""}. Trying again…`,
  };
  put("link-text", texts[link.name]);
  $("link").dataset.tone = late || link.name === "catching" ? "ask" : link.name === "live" ? "good" : "bad";
}

/** In the title too, where it can be seen from another tab; frames do not come there. */
function drawTitle() {
  const count = listed && synced ? state.pending().length : 0;
  const { nodeId, repoRoot } = state.identity;
  document.title = `${count ? `(${count}) ` : ""}codexd · ${nodeId}`;
  put("host", `${nodeId} · ${repoRoot.split("/").pop()}`);
  $("host").title = repoRoot;
}

/** What one can filter by, as it becomes known. */
const offered = new Set();
function offer(list, value, text) {
  if (offered.has(value)) return;
  offered.add(value);
  $(list).append(el("option", { value, text }));
}

// --- What comes in -----------------------------------------------------------------------------------------------

const on = {
  state(next) {
    link = next;
    if (next.name === "away") synced = false;
    changed("health");
  },
  async hello(message) {
    if (state.identity && state.identity.daemonId !== message.snapshot.identity.daemonId) return begin("This is another daemon than before.");
    state.load(message);
    target = state.seq;
    changed("inbox", "sessions", "runs", "health", "events");
    listed = false;
    const ticket = state.ticket;
    try {
      state.loadRequests((await get("/v1/codexd/requests?status=pending")).requests, ticket);
      listed = true;
    } catch {
      // The stream will break too, and come again.
    }
    drawTitle();
    changed("inbox", "sessions");
    askReadiness();
  },
  event(event, hole) {
    if (hole) on.gap(hole);
    tail.push(rowOf(event));
    history.count(event);
    const heard = Date.now();
    latest = { heard, late: heard - Date.parse(event.createdAt) };
    offer("event-types", event.type);
    if (turns.fold(event)) changed("sessions");
    const part = state.fold(event);
    if (part === "requests" && state.identity) drawTitle();
    if (part === "health" || event.type.startsWith("app-server.con")) askReadiness();
    changed("events", ...(part === "requests" ? ["inbox", "sessions"] : part ? [part] : []));
  },
  gap(gap) {
    tail.push(gapRow(gap));
    changed("events");
  },
  synced(seq, sameLog) {
    if (!sameLog) return begin(`The daemon's log ends at ${seq}: what was shown after that is lost.`);
    synced = true;
    drawTitle();
    changed("inbox", "sessions", "charts");
  },
  refused() {
    page("limit=1").catch((error) => error.status === 401 && signIn());
  },
};

let asking;

async function askReadiness() {
  if (asking || document.hidden) return;
  asking = true;
  ready = await open("/readyz").catch(() => null);
  asking = false;
  changed("health");
}

// --- Beginning ---------------------------------------------------------------------------------------------------

const backoff = new Backoff();
let beginning = 0;

/** Begins anew, with nothing. `note`: why, if it is not the first time. */
async function begin(note) {
  const mine = (beginning += 1);
  stream?.close();
  stream = null;
  [state, turns, history] = [new State(), new Turns(), new History()];
  [listed, synced] = [false, false];
  tail.clear();
  list.live();
  on.state({ name: "connecting" });
  let oldest, newest;
  try {
    path = (await open("/healthz")).service.eventStreamPath;
    ({ oldestSeq: oldest, latestSeq: newest } = await page("limit=1"));
  } catch (error) {
    if (mine !== beginning) return;
    if (error.status === 401) return signIn();
    on.state({ name: "away", why: error.message });
    setTimeout(() => mine === beginning && begin(note), backoff.next());
    return;
  }
  if (mine !== beginning) return;
  backoff.reset();
  show();
  list.measure();
  if (note) tail.push(noteRow(0, note));
  const after = Math.max(oldest - 1, newest - BEFORE, 0);
  const url = () => `${location.origin.replace(/^http/, "ws")}${path}`;
  stream = new Stream({ url, protocols, after, on });
  try {
    const past = await lookBack(page, oldest, after, Date.now());
    if (mine !== beginning) return;
    history.spread(past.places);
    past.turns.forEach((event) => history.turn(event));
    changed("charts");
  } catch {
    // The chart begins with the page, then.
  }
}

/** Shows the page, or, with a problem (it may be none), the form for the token. */
function show(problem = null) {
  const asks = problem !== null;
  $("main").hidden = $("link").hidden = asks;
  $("sign-in").hidden = !asks;
  $("sign-out").hidden = asks || token() === null;
}

function signIn(problem = token() === null ? "" : "That is not the token.") {
  beginning += 1;
  stream?.close();
  stream = null;
  setToken(null);
  show(problem);
  put("sign-in-problem", problem);
  $("sign-in-token").value = "";
  $("sign-in-token").focus();
}

const listen = (id, event, handle) => $(id).addEventListener(event, handle);

listen("sign-in", "submit", (event) => {
  event.preventDefault();
  const given = $("sign-in-token").value.trim();
  if (given === "") return;
  setToken(given);
  begin();
});
listen("sign-out", "click", () => signIn("You are signed out."));

/** Waits for something with the past; what goes wrong is told beside the events. */
const tell = (doing) => doing.then(() => "", (error) => error.message).then((text) => put("events-problem", text));

function filtered() {
  tail.setFilter(filter());
  if (list.past) tell(list.jump(list.active ?? list.past.after + 1));
  else list.live();
}

listen("events-type", "input", filtered);
listen("events-session", "change", filtered);
listen("events-live", "click", () => list.live());
listen("events-earlier", "click", () => tell(list.earlier()));
listen("events-later", "click", () => tell(list.later()));
listen("events-jump", "submit", (event) => {
  event.preventDefault();
  tell(list.jump(Number($("events-seq").value)));
});
listen("detail-close", "click", () => {
  $("detail").hidden = true;
  $("events-list").focus();
});

setInterval(() => changed("charts", "health", "sessions", "runs", "inbox"), 2000);
setInterval(askReadiness, READY);
document.addEventListener("visibilitychange", askReadiness);
begin();
