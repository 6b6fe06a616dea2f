// The page's logic without a browser: `node --test tests/browser/logic.test.mjs`.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { Backoff, Cursor } from "../../src/http/page/cursor.mjs";
import { visible } from "../../src/http/page/dom.mjs";
import { History, lookBack, median } from "../../src/http/page/history.mjs";
import { factsOf } from "../../src/http/page/inbox.mjs";
import { State } from "../../src/http/page/state.mjs";
import { Tail, indexOf, noteRow, rowOf, wants, windowOf } from "../../src/http/page/tail.mjs";
import { Turns, textOf } from "../../src/http/page/turns.mjs";

const at = (ms) => new Date(1_790_000_000_000 + ms).toISOString();
const event = (seq, type = "x", detail = null) => ({ seq, createdAt: at(seq * 1000), level: "info", type, message: `m${seq}`, detail });

test("a cursor takes each seq once and notices what is missing", () => {
  const cursor = new Cursor(5);
  assert.deepEqual([6, 6, 5, 1, 7].map((seq) => cursor.take(seq)), ["next", "repeat", "repeat", "repeat", "next"]);
  assert.deepEqual(cursor.take(10), { from: 8, to: 9 });
  assert.equal(cursor.gap({ from: 11, to: 20 }), true);
  assert.equal(cursor.gap({ from: 11, to: 20 }), false, "told twice");
  assert.equal(cursor.take(21), "next");
  assert.equal(cursor.synced(21), true);
  assert.equal(cursor.synced(30), true, "a filter passes over events");
  assert.equal(cursor.synced(4), false, "another log");
  assert.equal(new Cursor().take(100), "next");
});

test("pauses grow to a bound and begin anew", () => {
  const backoff = new Backoff(() => 1);
  const pauses = Array.from({ length: 8 }, () => backoff.next());
  assert.deepEqual(pauses.slice(0, 3), [300, 540, 972]);
  assert.equal(pauses.at(-1), 5000);
  backoff.reset();
  assert.equal(backoff.next(), 300);
  assert.equal(new Backoff(() => 0).next(), 150);
});

test("the tail is bounded, and its filter keeps up", () => {
  const tail = new Tail(100);
  tail.setFilter({ type: "even" });
  for (let seq = 1; seq <= 1000; seq += 1) tail.push(rowOf(event(seq, seq % 2 ? "odd" : "even")));
  assert(tail.rows.length >= 100 && tail.rows.length <= 105, `${tail.rows.length}`);
  assert.equal(tail.rows.at(-1).seq, 1000);
  assert.deepEqual(tail.shown.map((row) => row.seq), tail.rows.map((row) => row.seq).filter((seq) => seq % 2 === 0));
  assert.equal(tail.dropped + tail.shown.length, 500);
  tail.setFilter({});
  assert.equal(tail.shown.length, tail.rows.length);
});

test("rows are found by seq, wanted by type and session", () => {
  const rows = [2, 4, 6].map((seq) => rowOf(event(seq)));
  assert.deepEqual([1, 2, 3, 6, 7].map((seq) => indexOf(rows, seq)), [0, 0, 1, 2, 3]);
  const row = rowOf(event(1, "turn.accepted", { sessionId: "s", threadId: "t" }));
  assert(wants({ type: "turn." }, row) && !wants({ type: "run." }, row));
  assert(wants({ session: "s" }, row) && !wants({ session: "other" }, row));
  assert(wants({ session: "s2", thread: "t" }, row), "what happens on the session's thread");
  const notified = rowOf(event(1, "app-server.notification", { params: { thread: { id: "t" } } }));
  assert(wants({ session: "s2", thread: "t" }, notified));
  assert(wants({ type: "turn." }, noteRow(1, "a gap")));
});

test("the window covers what can be seen, and no more", () => {
  assert.deepEqual(windowOf(0, 20, 0, 400), { first: 0, end: 0 });
  assert.deepEqual(windowOf(10000, 20, 0, 400, 5), { first: 0, end: 25 });
  assert.deepEqual(windowOf(10000, 20, 100000, 400, 5), { first: 4995, end: 5025 });
  assert.deepEqual(windowOf(10000, 20, 199600, 400, 5), { first: 9975, end: 10000 });
  assert.deepEqual(windowOf(10, 20, 99999, 400, 5), { first: 5, end: 10 }, "the list became shorter");
});

const delta = (text, item = "i1", turn = "u1") => event(1, "app-server.turn.message.delta", { delta: text, itemId: item, threadId: "t", turnId: turn });

test("deltas are joined, message by message, turn by turn", () => {
  const turns = new Turns();
  turns.fold(event(1, "app-server.turn.started", { threadId: "t", turnId: "u1" }));
  turns.fold(delta("Hel"));
  turns.fold(delta("lo"));
  turns.fold(delta("Second", "i2"));
  const turn = turns.fold(event(9, "app-server.turn.completed", { threadId: "t", turnId: "u1", status: "completed" }));
  assert.equal(textOf(turn), "Hello\n\nSecond");
  assert.deepEqual([turn.status, turn.whole], ["completed", true]);
  const next = turns.fold(delta("new", "i3", "u2"));
  assert.deepEqual([textOf(next), next.whole, turns.byThread.size], ["new", false, 1]);
});

test("a turn that is joined late is completed, a long one is cut at its beginning", () => {
  const turns = new Turns();
  turns.fold(delta("lo"));
  const item = { type: "agentMessage", id: "i1", text: "Hello" };
  const turn = turns.fold(event(2, "app-server.notification", { notificationMethod: "item/completed", params: { threadId: "t", turnId: "u1", item } }));
  assert.equal(textOf(turn), "Hello");
  for (let i = 0; i < 1000; i += 1) turns.fold(delta(`${i} ${"x".repeat(50)}`));
  const text = textOf(turns.byThread.get("t"));
  assert(text.length <= 24100 && text.includes("999 ") && !turns.byThread.get("t").whole);
});

test("what Codex does meanwhile is told", () => {
  const turns = new Turns();
  const item = (method, item) => turns.fold(event(1, "app-server.notification", { notificationMethod: method, params: { threadId: "t", turnId: "u1", item } }));
  assert.equal(item("item/started", { type: "commandExecution", command: "ls -l\nrm x" }).doing, "$ ls -l");
  assert.equal(item("item/completed", { type: "commandExecution" }).doing, null);
  assert.equal(turns.fold(event(1, "app-server.turn.error", { threadId: "t", turnId: "u1", error: { message: "Reconnecting... 1/2" } })).doing, "Reconnecting... 1/2");
});

const snapshot = (sessions, runs, last) => ({
  service: {},
  snapshot: {
    identity: { daemonId: "d" }, daemon: { child: { status: "running", restarts: 0, generation: 1 } },
    sessionRegistry: { sessions }, runRegistry: { runs }, recentEvents: { events: last ? [event(last)] : [] },
  },
});
const session = (more = {}) => ({ sessionId: "s", threadId: "t", status: "active", currentTurnId: null, lastTurnId: null, lastTurnStatus: null, updatedAt: at(0), ...more });

test("sessions follow their turns", () => {
  const state = new State();
  state.load(snapshot([session()], [], 10));
  const now = () => state.sessions.get("s");
  assert.equal(state.fold(event(9, "session.closed", { sessionId: "s" })), null, "the snapshot knows better");
  state.fold(event(11, "turn.accepted", { sessionId: "s", threadId: "t", turnId: "u" }));
  assert.equal(now().currentTurnId, "u");
  assert.equal(state.fold(event(12, "app-server.turn.error", { threadId: "t", turnId: "u", willRetry: true })), null);
  state.fold(event(13, "app-server.turn.completed", { threadId: "t", turnId: "u", status: "completed" }));
  assert.deepEqual([now().currentTurnId, now().lastTurnStatus], [null, "completed"]);
  state.fold(event(14, "app-server.turn.started", { threadId: "t", turnId: "v" }));
  state.fold(event(15, "app-server.turn.completed", { threadId: "t", turnId: "u", status: "completed" }));
  assert.equal(now().currentTurnId, "v", "the end of another turn");
  state.fold(event(16, "turn.accepted", { sessionId: "s", threadId: "t", turnId: "a", steered: true }));
  assert.equal(now().currentTurnId, "v", "the late answer to a steer");
  state.fold(event(17, "session.closed", { sessionId: "s" }));
  assert.deepEqual([now().status, now().currentTurnId], ["closed", null]);
});

test("runs and the child follow their events", () => {
  const state = new State();
  state.load(snapshot([], [{ runId: "r", status: "queued", result: { big: true } }], 0));
  assert.equal("result" in state.runs.get("r"), false);
  assert.equal(state.fold(event(1, "run.started", { runId: "r" })), "runs");
  assert.equal(state.runs.get("r").status, "running");
  state.fold(event(2, "run.failed", { runId: "r", record: { runId: "r", status: "failed", error: "no", result: {} } }));
  assert.deepEqual([state.runs.get("r").error, "result" in state.runs.get("r")], ["no", false]);
  assert.equal(state.fold(event(3, "child.exited", { code: 1 })), "health");
  state.fold(event(4, "child.restarted", { generation: 2 }));
  assert.equal(state.daemon.child.restarts, 1);
});

const request = (id, status, order = 0) => ({ requestId: id, status, createdAt: at(order) });

test("a list that comes late takes nothing back", () => {
  const state = new State();
  const put = (id, status) => state.fold(event(1, "request.x", { record: request(id, status, 1) }));
  put("gone", "pending");
  const ticket = state.ticket;
  put("new", "pending");
  put("settled", "answered");
  state.loadRequests([request("settled", "pending"), request("old", "pending")], ticket);
  assert.deepEqual(state.pending().map((record) => record.requestId), ["old", "new"]);
});

test("settled requests are forgotten, pending ones never", () => {
  const state = new State();
  state.putRequest(request("first", "pending"));
  for (let i = 0; i < 5000; i += 1) state.putRequest(request(`r${i}`, "answered"));
  assert(state.requests.size <= 501);
  assert.equal(state.pending().length, 1);
});

test("rates and turns of the last hour", () => {
  const history = new History();
  const now = Date.parse(at(0)) + 30 * 60000;
  for (let i = 0; i < 120; i += 1) history.count({ ...event(i), createdAt: new Date(now - 5 * 60000).toISOString() });
  assert.equal(history.rates(now).at(-6), 2, "120 in a minute");
  assert.equal(history.rates(now).length, 60);
  history.turn({ ...event(1, "app-server.turn.started", { turnId: "u" }), createdAt: new Date(now - 9000).toISOString() });
  history.turn({ ...event(2, "app-server.turn.completed", { turnId: "u", status: "completed" }), createdAt: new Date(now - 2000).toISOString() });
  history.turn({ ...event(3, "app-server.turn.completed", { turnId: "unknown", status: "completed" }), createdAt: new Date(now).toISOString() });
  assert.deepEqual(history.recent(now), [{ at: now - 2000, took: 7000, status: "completed" }]);
  assert.deepEqual(history.recent(now + 3600000), []);
  assert.equal(median([9, 1, 5]), 5);
});

test("what was before the page is looked up, not read", async () => {
  // 100,000 events, ten a second, in a log whose first 20,000 are gone.
  const now = Date.parse(at(0));
  const log = { oldest: 20001, latest: 100000 };
  const time = (seq) => new Date(now - (log.latest - seq) * 100).toISOString();
  let asked = 0;
  const page = async (query) => {
    asked += 1;
    const wanted = new URLSearchParams(query);
    const limit = Number(wanted.get("limit"));
    const first = Math.max(Number(wanted.get("after") ?? 0) + 1, log.oldest);
    const events = [];
    for (let seq = first; seq <= log.latest && events.length < limit && !wanted.has("type"); seq += 1) events.push({ ...event(seq), createdAt: time(seq) });
    return { events, oldestSeq: log.oldest, latestSeq: log.latest };
  };
  const { places } = await lookBack(page, log.oldest, 99000, now);
  assert(asked < 100, `${asked} pages`);
  assert(places[0].at >= now - 3600000 && places[0].at < now - 3590000, "from an hour ago");
  assert.equal(places.at(-1).seq, 99000);
  const history = new History();
  history.spread(places);
  const rates = history.rates(now);
  assert(rates.slice(5, 50).every((rate) => Math.abs(rate - 10) < 0.1), rates.join());
  const total = rates.reduce((sum, rate, i) => sum + rate * (i === 59 ? Math.max((now % 60000) / 1000, 5) : 60), 0);
  assert(Math.abs(total - (99000 - places[0].seq)) < 700, `${total}`);
  assert.deepEqual(await lookBack(page, log.oldest, 5, now), { places: [], turns: [] });
});

test("what would reverse or hide text is an escape", () => {
  assert.equal(visible("a\u202eb\u2066c\u061cd\u200fe\u2028f"), "a\\u{202e}b\\u{2066}c\\u{61c}d\\u{200f}e\\u{2028}f");
  assert.equal(visible("\0\x1b[2K\r\x7f\x9b"), "\\u{0}\\u{1b}[2K\\u{d}\\u{7f}\\u{9b}");
  assert.equal(visible("lines\n\ttabs ä 😀 \u200d \\ <b>"), "lines\n\ttabs ä 😀 \u200d \\ <b>");
  assert.deepEqual([visible(5), visible(0), visible(null), visible(undefined)], ["5", "0", "", ""]);
});

test("there is one place where text is set", () => {
  const folder = new URL("../../src/http/page/", import.meta.url);
  const set = /\.(textContent|innerText|nodeValue|data) =[^=]|createTextNode|new Text\(/g;
  const places = readdirSync(folder).flatMap((name) => (readFileSync(new URL(name, folder), "utf8").match(set) ?? []).map((found) => `${name} ${found}`));
  assert.deepEqual(places, ["dom.mjs .textContent = "]);
});

const facts = (params, form = []) => factsOf(params, form).map(([label, text]) => `${label} ${text}`);

test("everything that is granted is listed, nothing twice", () => {
  const write = { path: { type: "path", path: "/srv" }, access: "write" };
  for (const [permissions, expected] of [
    [{ network: null, fileSystem: { read: null, write: ["/srv"], entries: [write] } }, ["write /srv"]],
    [{ fileSystem: { entries: [{ path: "/a", access: "write" }] } }, ["write /a"]],
    [{ fileSystem: { read: ["/r"], globScanMaxDepth: 3 }, network: { enabled: true } }, ["read /r", "globScanMaxDepth 3", "network enabled true"]],
    [{ fileSystem: { entries: [{ path: { type: "special", value: { kind: "root" } }, access: "read" }] } }, ['read {"type":"special","value":{"kind":"root"}}']],
    [{ fileSystem: { entries: [{ ...write, inherit: true }] } }, ["path type path", "path path /srv", "access write", "inherit true"]],
    [{ network: true, clipboard: { paste: ["all"] } }, ["network true", "clipboard paste all"]],
    [{ fileSystem: true }, ["true"]],
    [{ fileSystem: { entries: [] } }, ["[]"]],
    [{ network: null }, ['{"network":null}']],
    [{}, ["{}"]],
    ["all", ["all"]],
  ]) assert.deepEqual(facts({ permissions }), expected.map((text) => `permission: ${text}`), JSON.stringify(permissions));
});

test("what no other part of a card shows is listed, whatever it is called", () => {
  const ids = { threadId: "t", turnId: "u", itemId: "i", callId: "c", conversationId: "c", approvalId: "a", elicitationId: "e", startedAtMs: 1 };
  const shown = { command: "ls", cwd: "/", reason: "r", commandActions: [], availableDecisions: [], environmentId: "local", kind: "command", mode: "url", message: "m", changes: [] };
  assert.deepEqual(facts({ ...ids, ...shown, grantRoot: null }), []);
  assert.deepEqual(facts({
    additionalPermissions: { fileSystem: { write: ["/home/u/.ssh"] }, network: { enabled: true } },
    networkApprovalContext: { host: "evil.example", protocol: "https" },
    proposedExecpolicyAmendment: ["rm", "-rf"],
    grantRoot: "/", environmentId: "elsewhere", kind: "writeStdin", mode: "openai/form", url: "https://x/", serverName: "s", _meta: { a: 1 },
  }), [
    "extra permission: write /home/u/.ssh", "extra permission: network enabled true",
    'networkApprovalContext: {"host":"evil.example","protocol":"https"}', 'offered as a rule: ["rm","-rf"]',
    "and to write below /", "environmentId: elsewhere", "kind: writeStdin", "mode: openai/form", "url: https://x/", "serverName: s", '_meta: {"a":1}',
  ]);
  const odd = JSON.parse('{"__proto__": 1, "constructor": {"toString": 1}, "toString": [2], "zero": 0, "no": false}');
  assert.deepEqual(facts(odd).sort(), ["__proto__: 1", 'constructor: {"toString":1}', "no: false", "toString: [2]", "zero: 0"]);
  assert.deepEqual(facts({ questions: [], requestedSchema: {} }, ["questions", "requestedSchema"]), []);
  assert.deepEqual(facts({ questions: [], requestedSchema: { x: 1 } }), ["questions: []", 'requestedSchema: {"x":1}']);
  assert.deepEqual(facts({ command: "ls", turnId: "u" }, null), ["command: ls", "turnId: u"], "all of it, where no other part shows anything");
});
