// What Codex says and does in the last turn of each thread, joined from the events.

/** Characters of a turn that are kept, its end. */
const MOST = 12000;

const firstLine = (text) => String(text ?? "").split("\n", 1)[0].slice(0, 300);

/** What an item is about while it runs; null for what needs no words. */
function activityOf({ type, command, changes, tool } = {}) {
  if (type === "commandExecution") return `$ ${firstLine(command)}`;
  if (type === "fileChange") return `changes ${(changes ?? []).map((change) => change?.path).join(", ")}`;
  return /Message$/.test(type) ? null : firstLine(tool ?? type);
}

/** The last turn of each thread. */
export class Turns {
  constructor() {
    this.byThread = new Map();
  }

  /** Takes an event; the turn that it changed, if any. */
  fold(event) {
    const detail = event.detail;
    if (!detail) return null;
    switch (event.type) {
      case "app-server.turn.started":
        return this.#begin(detail, event.createdAt, true);
      case "app-server.turn.message.delta":
        return this.#say(detail.itemId, detail, String(detail.delta ?? ""), event.createdAt);
      case "app-server.turn.completed":
        return this.#end(detail, detail.status, event.createdAt);
      case "app-server.turn.completed.missing":
        return this.#end(detail, "failed", event.createdAt);
      case "app-server.turn.error":
        return this.#doing(detail, firstLine(detail.error?.message ?? event.message), event.createdAt);
      case "app-server.notification":
        return this.#item(detail.notificationMethod, detail.params ?? {}, event.createdAt);
      default:
        return null;
    }
  }

  /** `whole`: seen from its beginning. */
  #begin({ threadId, turnId }, at, whole) {
    let turn = this.byThread.get(threadId);
    if (turn?.id !== turnId) {
      turn = { id: turnId, thread: threadId, at, endedAt: null, status: "inProgress", doing: null, whole, items: new Map(), length: 0, version: 0 };
      this.byThread.set(threadId, turn);
    }
    turn.version += 1;
    return turn;
  }

  #say(itemId, detail, text, at) {
    const turn = this.#begin(detail, at, false);
    turn.items.set(itemId, (turn.items.get(itemId) ?? "") + text);
    turn.length += text.length;
    turn.doing = null;
    if (turn.length > 2 * MOST) this.#shorten(turn);
    return turn;
  }

  #shorten(turn) {
    const text = textOf(turn);
    const last = [...turn.items.keys()].pop();
    turn.items = new Map([[last, text.slice(-MOST)]]);
    turn.length = MOST;
    turn.whole = false;
  }

  #doing(detail, what, at) {
    const turn = this.#begin(detail, at, false);
    turn.doing = what;
    return turn;
  }

  #end(detail, status, at) {
    const turn = this.#begin(detail, at, false);
    Object.assign(turn, { status, endedAt: at, doing: null });
    return turn;
  }

  #item(method, params, at) {
    if (method === "item/started") return this.#doing(params, activityOf(params.item), at);
    if (method !== "item/completed") return null;
    const turn = this.#doing(params, null, at);
    const { type, id, text } = params.item ?? {};
    // The whole text, where the page came in the middle of it.
    if (type === "agentMessage" && typeof text === "string" && text.length > (turn.items.get(id) ?? "").length) {
      turn.items.set(id, text.slice(-MOST));
    }
    return turn;
  }
}

/** What was said in a turn: its messages one after the other. */
export function textOf(turn) {
  return [...turn.items.values()].map((text) => text.trimEnd()).join("\n\n");
}
