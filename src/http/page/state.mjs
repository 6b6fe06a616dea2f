// What the daemon knows, as far as the page shows it: the snapshot of `hello`, and then what each event does to it. The
// daemon's own state is the same fold of the same events.

/** The state; every collection is a map by id. */
export class State {
  constructor() {
    this.sessions = new Map();
    this.runs = new Map();
    this.requests = new Map();
    /** The last seq that the state has; events up to it change nothing. */
    this.seq = 0;
    /** Counts what was put into `requests`, so that a list that was asked for earlier takes nothing back. */
    this.ticket = 0;
  }

  /** Takes a snapshot, whole. */
  load({ snapshot }) {
    this.identity = snapshot.identity;
    this.daemon = structuredClone(snapshot.daemon);
    this.sessions = new Map(snapshot.sessionRegistry.sessions.map((one) => [one.sessionId, { ...one }]));
    this.runs = new Map(snapshot.runRegistry.runs.map((run) => [run.runId, lean(run)]));
    this.seq = snapshot.recentEvents.events.at(-1)?.seq ?? 0;
  }

  /** Takes the list of pending requests that was asked for when `ticket` was the count. */
  loadRequests(list, ticket) {
    const listed = new Set(list.map((one) => one.requestId));
    for (const [id, { ticket: put }] of this.requests) {
      if (put <= ticket && !listed.has(id)) this.requests.delete(id);
    }
    for (const record of list) {
      const known = this.requests.get(record.requestId);
      if (!known || known.ticket <= ticket) this.putRequest(record);
    }
  }

  /** Takes a request's record, also one that an answer brought. */
  putRequest(record) {
    this.ticket += 1;
    this.requests.set(record.requestId, { record, ticket: this.ticket });
    // What is settled is kept for a while only so that an older list does not bring it back.
    if (this.requests.size > 500) {
      for (const [id, entry] of this.requests) {
        if (entry.record.status !== "pending") this.requests.delete(id);
        if (this.requests.size <= 250) break;
      }
    }
  }

  /** What waits for somebody, oldest first. */
  pending() {
    const all = [...this.requests.values()].map(({ record }) => record);
    return all.filter(({ status }) => status === "pending").sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  }

  /** Takes an event. What it changed: `"requests"`, `"sessions"`, `"runs"`, `"health"` or nothing. */
  fold(event) {
    const { type, detail } = event;
    if (type.startsWith("request.") && detail?.record) {
      this.putRequest(detail.record);
      return "requests";
    }
    if (event.seq <= this.seq) return null;
    if (type.startsWith("run.")) return this.#run(event);
    if (type.startsWith("child.")) return this.#child(event);
    return this.#session(event);
  }

  #session({ type, detail, createdAt }) {
    if (type.startsWith("session.") && detail?.record) {
      this.sessions.set(detail.record.sessionId, { ...detail.record });
      return "sessions";
    }
    const session = this.#sessionOf(detail);
    if (!session) return null;
    const { turnId, status, willRetry, steered } = detail;
    const { currentTurnId, lastTurnId } = session;
    const ended = (lastTurnStatus) => ({ lastTurnStatus, currentTurnId: currentTurnId === turnId ? null : currentTurnId });
    const started = { currentTurnId: turnId, lastTurnId: turnId, lastTurnStatus: "inProgress" };
    const change = {
      "session.closed": { status: "closed", currentTurnId: null },
      // As the daemon has it: the answer may come when the turn is over, a steer's when the next one runs.
      "turn.accepted": lastTurnId && (steered || turnId === lastTurnId) ? null : started,
      "turn.started": started,
      "turn.completed": ended(status),
      "turn.completed.missing": ended("failed"),
      "turn.error": willRetry ? null : ended("failed"),
    }[type.replace("app-server.", "")];
    if (!change) return null;
    Object.assign(session, change, { updatedAt: createdAt });
    return "sessions";
  }

  #sessionOf(detail) {
    const { sessionId, threadId } = detail ?? {};
    return this.sessions.get(sessionId) ?? (threadId && [...this.sessions.values()].find((one) => one.threadId === threadId));
  }

  #run({ type, detail, createdAt }) {
    if (detail?.record) {
      this.runs.set(detail.record.runId, lean(detail.record));
      return "runs";
    }
    const run = this.runs.get(detail?.runId);
    if (type !== "run.started" || !run) return null;
    Object.assign(run, { status: "running", startedAt: createdAt, updatedAt: createdAt });
    return "runs";
  }

  /** What is wrong with the child is a matter of `/readyz`. */
  #child({ type }) {
    if (type === "child.restarted" && this.daemon) this.daemon.child.restarts += 1;
    return "health";
  }
}

/** A run without its whole outcome, which may be half a megabyte. */
function lean({ result: _, ...run }) {
  return run;
}
