// What there is besides inbox and events: the sentence at the top, health, sessions with what Codex says, runs.

import { $, box, clock, duration, el, keyed, put, setText, shortPath, some, span } from "./dom.mjs";
import { textOf } from "./turns.mjs";

/** Sessions and runs that are listed. */
const MOST = 30;

/** What there is of some facts, in a row. */
const row = (...facts) => facts.filter(Boolean).join(" · ");

const since = (iso) => duration(Date.now() - Date.parse(iso));

/** A check of `/readyz` as people write it: `appServer` is `App server`. */
const title = (name) => name[0].toUpperCase() + name.slice(1).replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** Health in a row: `ready` is the answer of `/readyz`, or null while there is none. */
export function renderHealth(state, ready, away) {
  const { daemon } = state;
  const items = [];
  for (const [name, check] of Object.entries(ready?.checks ?? {})) {
    if (/hub|work/.test(name) && check.ok) continue;
    items.push({ name: title(name), text: check.detail ?? "ok", tone: away ? "off" : check.ok ? "good" : "bad" });
  }
  if (daemon && !away) {
    items.push({ name: "Restarts", text: daemon.child.restarts, note: "of the child" });
    items.push({ name: "Uptime", text: since(daemon.startedAt), note: `pid ${daemon.pid}` });
  }
  items.push({ name: "Version", text: $("version").content, note: state.identity?.version });
  keyed($("health"), items, (item) => item.name, (item) => {
    const [dd, small] = [el("dd", {}), el("dd.meta", {})];
    return Object.assign(el("div", {}, el("dt", { text: item.name }), dd, small), { dd, small });
  }, (node, item) => {
    node.dataset.tone = item.tone ?? "";
    setText(node.dd, item.text);
    setText(node.small, item.note);
  });
}

/** The sentence that answers both questions. `pending`: how many requests wait; null while that is not certain. */
export function renderVerdict(state, ready, link, pending) {
  const working = [...state.sessions.values()].filter((one) => one.currentTurnId).length;
  const running = [...state.runs.values()].filter((run) => run.status === "running").length;
  const busy = [working && some(working, "turn"), running && some(running, "run")].filter(Boolean).join(" and ");
  const bad = Object.entries(ready?.checks ?? {}).filter(([, check]) => !check.ok).map(([name]) => title(name));
  let text, tone;
  if (link === "away" || link === "connecting") [text, tone] = ["Not connected to the daemon.", "off"];
  else if (pending === null) [text, tone] = ["Catching up…", ""];
  else if (pending) [text, tone] = [`Codex waits for you: ${some(pending, "request")}.`, "ask"];
  else if (bad[0] === "Work") [text, tone] = ["Stopping.", "off"];
  else if (bad.length) [text, tone] = [`Something is wrong: ${bad.join(", ")}.`, "bad"];
  else [text, tone] = [busy ? `Codex is working on ${busy}.` : "All quiet.", "good"];
  if (tone === "good") text += " Nothing needs you.";
  put("verdict", text);
  $("verdict").dataset.tone = tone;
}

/** A session's name for people. */
export function nameOf(session) {
  if (!session) return "unknown session";
  return session.metadata.title ?? (session.cwd ? shortPath(session.cwd) : session.sessionId);
}

/** A line that opens: badge, name, facts; and what is in it. */
function line() {
  const parts = { badge: span("badge"), name: span("name"), facts: span("facts") };
  parts.box = el("details.card", {}, el("summary", {}, parts.badge, parts.name, parts.facts));
  return Object.assign(el("li", {}, parts.box), parts);
}

/** What stands in a line's badge. */
function badge(node, word, tone) {
  setText(node.badge, word);
  node.badge.dataset.tone = tone;
}

/** The first of some records, by rank and then the youngest; what is left out is told beside the heading. */
function first(id, map, rank, time, none) {
  const all = [...map.values()].sort((a, b) => rank(b) - rank(a) || (a[time] < b[time] ? 1 : -1));
  put(`${id}-more`, all.length > MOST ? `${MOST} of ${all.length}` : all.length ? "" : none);
  return all.slice(0, MOST);
}

export function renderSessions(state, turns, pending) {
  const waiting = new Set(pending.map((record) => record.sessionId));
  const rank = (session) => (waiting.has(session.sessionId) ? 3 : session.currentTurnId ? 2 : session.status === "active" ? 1 : 0);
  const shown = first("sessions", state.sessions, rank, "updatedAt", "No session yet.");
  keyed($("sessions-list"), shown, (one) => one.sessionId, (session) => {
    const node = line();
    node.doing = el("p.doing", { hidden: true });
    node.said = box("div.said", `What Codex says in ${nameOf(session)}`);
    node.ids = el("p.meta", {});
    node.box.append(node.doing, node.said, node.ids);
    return node;
  }, (node, session) => updateSession(node, session, turns.byThread.get(session.threadId), waiting.has(session.sessionId)));
}

function updateSession(node, session, turn, waits) {
  const working = session.currentTurnId !== null;
  const last = session.lastError ? "failed" : session.lastTurnStatus;
  if (waits) badge(node, "waits", "ask");
  else if (working) badge(node, "working", "work");
  else if (session.status === "closed") badge(node, "closed", "");
  else if (last === "failed") badge(node, last, "bad");
  else badge(node, last === "completed" ? "idle" : (last ?? "new"), "");
  setText(node.name, nameOf(session));
  setText(node.facts, row(session.model, working && turn?.whole ? since(turn.at) : clock(session.updatedAt)));
  setText(node.ids, row(session.sessionId, session.cwd, session.lastError));
  if (!turn || (turn.version === node.version && turn.id === node.turn)) {
    if (!turn) node.said.hidden = true;
    return;
  }
  // A turn that begins opens its session; whoever closes it again is left alone.
  if (node.turn !== turn.id && turn.status === "inProgress") node.box.open = true;
  [node.turn, node.version] = [turn.id, turn.version];
  node.doing.hidden = !turn.doing;
  setText(node.doing, turn.doing);
  const atEnd = node.said.scrollTop + node.said.clientHeight >= node.said.scrollHeight - 24;
  const text = textOf(turn);
  node.said.hidden = !text;
  setText(node.said, turn.whole ? text : `… ${text}`);
  node.said.classList.toggle("live", working && !waits);
  if (atEnd) node.said.scrollTop = node.said.scrollHeight;
}

const RUN_TONES = { running: "work", queued: "", completed: "good", failed: "bad" };

export function renderRuns(state) {
  const rank = (run) => ["queued", "running"].indexOf(run.status);
  const shown = first("runs", state.runs, rank, "createdAt", "No run yet.");
  keyed($("runs-list"), shown, (run) => run.runId, (run) => {
    const node = line();
    setText(node.name, run.prompt.split("\n", 1)[0].slice(0, 200));
    node.outcome = box("div.said", "How the run ended");
    node.box.append(el("p.prompt", { text: run.prompt.slice(0, 4000) }), node.outcome, el("p.meta", { text: row(run.runId, run.purpose, run.cwd) }));
    return node;
  }, (node, run) => {
    badge(node, run.status, RUN_TONES[run.status] ?? "");
    const took = run.startedAt && duration((Date.parse(run.finishedAt) || Date.now()) - Date.parse(run.startedAt));
    setText(node.facts, row(took, clock(run.finishedAt ?? run.createdAt)));
    const outcome = run.error ?? run.summary;
    setText(node.outcome, outcome);
    node.outcome.hidden = !outcome;
  });
}
