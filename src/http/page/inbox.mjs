// What Codex waits for: a card for each request, with everything that was asked and a button for every possible decision.

import { post } from "./api.mjs";
import { $, box, duration, el, keyed, put, setText, span } from "./dom.mjs";

/** A new card takes no click for that long: it may have come under a finger that meant something else. */
const SETTLE = 500;
/** Lines of a diff that have their colour. */
const LINES = 1000;

const REFUSE = { decline: "Decline", cancel: "Decline and stop the turn" };

/** What each kind of request is called, and the decisions it knows. Others can be declined. */
const KINDS = {
  command: ["Run this command?", { accept: "Run it", acceptForSession: "Run it, and do not ask again this session", ...REFUSE }],
  fileChange: ["Change these files?", { accept: "Make the change", acceptForSession: "Make it, and do not ask again this session", ...REFUSE }],
  permissions: ["Grant these permissions?", { accept: "Grant for this turn", acceptForSession: "Grant for the session", decline: "Decline" }],
  userInput: ["A question for you", { decline: "Do not answer" }],
  elicitation: ["A form for you", { decline: "Decline", cancel: "Cancel" }],
};
const OTHER = ["Codex asks something", { decline: "Decline" }];

const kindOf = (record) => KINDS[record.kind] ?? OTHER;

/** The list of what waits. `settled(record)` is told of answers; `name(record)` says in which session. */
export class Inbox {
  constructor({ settled, name }) {
    Object.assign(this, { settled, name });
    this.announced = new Set();
  }

  render(pending) {
    $("inbox").hidden = pending.length === 0;
    put("inbox-count", String(pending.length));
    const focused = this.answering || $("inbox-list").contains(document.activeElement);
    keyed($("inbox-list"), pending, (record) => record.requestId, (record) => this.#card(record), (card, record) => {
      setText(card.deadline, record.deadline ? `declined in ${duration(Date.parse(record.deadline) - Date.now())}` : "waits for ever");
    });
    // What had the focus is answered: on to the next, never to the top of the page.
    const gone = this.answering ? !pending.some((record) => record.requestId === this.answering) : !$("inbox-list").contains(document.activeElement);
    if (focused && gone) {
      this.answering = null;
      $(pending.length ? "inbox-title" : "verdict").focus();
    }
    const fresh = pending.filter((record) => !this.announced.has(record.requestId));
    if (fresh.length) put("inbox-live", fresh.map((record) => $("inbox-list").nodes.get(record.requestId).spoken).join(" "));
    this.announced = new Set(pending.map((record) => record.requestId));
  }

  #card(record) {
    const [title, decisions] = kindOf(record);
    const params = record.params ?? {};
    const id = `title-${record.requestId}`;
    const deadline = span();
    const error = el("p.error", { role: "alert" });
    const buttons = [];
    const answer = async (body) => {
      // A button that is disabled loses the focus.
      this.answering = $("inbox-list").contains(document.activeElement) ? record.requestId : null;
      buttons.forEach((button) => (button.disabled = true));
      setText(error, "");
      try {
        const { request } = await post(`/v1/codexd/requests/${record.requestId}/answer`, body);
        this.settled(request);
      } catch (failure) {
        // Somebody else was faster, or Codex took it back: the record says how it stands.
        if (failure.data?.request) this.settled(failure.data.request);
        this.answering = null;
        buttons.forEach((button) => (button.disabled = false));
        setText(error, failure.message);
      }
    };
    const button = (text, body, primary = false, type = "button") => {
      const made = el(primary ? "button.primary" : "button", { type, text, disabled: true });
      if (body) made.addEventListener("click", () => answer(body));
      buttons.push(made);
      return made;
    };
    let [about, choices, form] = [[], words(decisions), null];
    try {
      about = subjectOf(record);
      choices = decisionsOf(record, decisions);
      form = formOf(record, () => button("Send the answer", null, true, "submit"), answer);
    } catch {
      // Not of the shape we know: everything that was sent is below, and it can be declined.
    }
    const actions = choices.map(([text, decision], i) => button(text, { decision }, i === 0 && !form));
    setTimeout(() => buttons.forEach((made) => (made.disabled = false)), SETTLE);
    const card = el(
      "li.card.request",
      { "aria-labelledby": id, "data-id": record.requestId },
      el("h3", { id, text: title }),
      el("p.meta", {}, span("", this.name(record)), params.cwd ? span("", `in ${params.cwd}`) : null, deadline),
      params.reason ? el("p.reason", { text: params.reason }) : null,
      ...about,
      form,
      el("div.actions", {}, ...actions),
      error,
      el("details", {}, el("summary", { text: "Everything Codex sent" }), box("pre", "Parameters", JSON.stringify(params, null, 2))),
    );
    const spoken = [...card.querySelectorAll("h3, .reason, pre.command, .path, legend")].map((part) => part.textContent).join(" ");
    return Object.assign(card, { deadline, spoken });
  }
}

/** What it is about, as elements. */
function subjectOf({ kind, params }) {
  switch (kind) {
    case "command": {
      const { command } = params;
      return [box("pre.command", "The command", Array.isArray(command) ? command.join(" ") : command)];
    }
    case "fileChange":
      return (params.changes ?? []).flatMap((change) => [
        el("p.path", {}, el("code", { text: change?.path ?? "" }), ` ${change?.kind?.type ?? ""}`),
        diff(String(change?.diff ?? "")),
      ]);
    case "permissions": {
      const { fileSystem: files, network } = params.permissions ?? {};
      const parts = ["write", "read"].flatMap((what) => (files?.[what] ?? []).map((path) => [what, path]));
      if (network) parts.push(["network", JSON.stringify(network)]);
      return [el("ul", {}, ...parts.map(([what, path]) => el("li", {}, `${what} `, el("code", { text: path }))))];
    }
    case "elicitation":
      return [el("p", { text: params.message ?? "" }), params.url ? el("p", {}, el("code", { text: params.url })) : null];
    default:
      return [];
  }
}

/** A diff, line by line. */
function diff(text) {
  const lines = text.replace(/\n$/, "").split("\n");
  const made = box("pre.diff", "The change");
  const names = { "+": "add", "-": "del" };
  made.append(...lines.slice(0, LINES).map((line) => span(names[line[0]], `${line}\n`)), span("", lines.slice(LINES).join("\n")));
  return made;
}

/** The decisions that are words: their text and what is sent. */
const words = (decisions) => Object.entries(decisions).map(([word, text]) => [text, word]);

/** All of them. */
function decisionsOf({ kind, params }, decisions) {
  const all = words(decisions);
  if (params.mode === "url") all.unshift(["I have done so", "accept"]);
  if (kind === "command") {
    const offered = (params.availableDecisions ?? []).filter((decision) => decision && typeof decision === "object");
    all.splice(2, 0, ...offered.map((decision) => [ruleOf(decision), decision]));
  }
  return all;
}

/** A decision that makes a rule, in words. */
function ruleOf(decision) {
  const start = decision.acceptWithExecpolicyAmendment?.execpolicy_amendment;
  if (start) return `Run it, and always what begins with “${start.join(" ")}”`;
  const rule = decision.applyNetworkPolicyAmendment?.network_policy_amendment;
  return rule ? `Always ${rule.action} ${rule.host}` : JSON.stringify(decision);
}

/** The form of a question or an elicitation, if it is one. */
function formOf({ kind, params, requestId }, submit, answer) {
  let fields;
  if (kind === "userInput") fields = (params.questions ?? []).map((question) => questionField(question, requestId));
  else if (kind === "elicitation" && params.mode !== "url") {
    const { properties = {}, required = [] } = params.requestedSchema ?? {};
    fields = Object.entries(properties).map(([name, schema]) => schemaField(name, schema ?? {}, required.includes(name)));
  } else return null;
  const send = (event) => {
    event.preventDefault();
    const answers = {};
    for (const field of fields) {
      const value = field.value();
      if (value !== undefined) answers[field.name] = value;
    }
    answer({ answers });
  };
  return el("form", { onsubmit: send }, ...fields.map((field) => field.element), submit());
}

/** One question: its options, and room for another answer. */
function questionField({ id, header, question, options, isOther, isSecret }, requestId) {
  const name = `${requestId}-${id}`;
  const choices = (options ?? []).map((option, i) => {
    const input = el("input", { type: "radio", name, value: option.label, checked: i === 0 });
    return { input, element: el("label.choice", {}, input, el("span", {}, el("strong", { text: option.label }), ` ${option.description ?? ""}`)) };
  });
  const label = choices.length ? "Another answer" : "Your answer";
  const other = isOther || !choices.length ? el("input", { type: isSecret ? "password" : "text", autocomplete: "off", "aria-label": label, placeholder: label }) : null;
  const legend = el("legend", {}, span("meta", header ? `${header} ` : ""), question ?? "");
  return {
    name: id,
    element: el("fieldset", {}, legend, ...choices.map((choice) => choice.element), other),
    value: () => other?.value || choices.find((choice) => choice.input.checked)?.input.value || "",
  };
}

/** One property of an elicitation's form. */
function schemaField(name, schema, required) {
  const label = schema.title ?? name;
  if (schema.type === "boolean") {
    const input = el("input", { type: "checkbox", checked: schema.default });
    return { name, element: el("label.choice", {}, input, label), value: () => input.checked };
  }
  const values = schema.enum;
  const numeric = /^(number|integer)$/.test(schema.type);
  const input = values
    ? el("select", {}, ...values.map((value) => el("option", { text: value, value })))
    : el("input", { type: numeric ? "number" : "text", step: numeric ? "any" : null, required, value: schema.default ?? "" });
  const value = () => (input.value === "" ? undefined : numeric ? Number(input.value) : input.value);
  return { name, element: el("label", {}, `${label} `, input), value };
}
