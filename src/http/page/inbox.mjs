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

const holdsFocus = () => $("inbox-list").contains(document.activeElement);

/** The list of what waits. `settled(record)` is told of answers; `name(record)` says in which session. */
export class Inbox {
  constructor({ settled, name }) {
    Object.assign(this, { settled, name });
    this.announced = new Set();
  }

  render(pending) {
    $("inbox").hidden = !pending.length;
    put("inbox-count", pending.length);
    const focused = this.answering || holdsFocus();
    keyed($("inbox-list"), pending, (one) => one.requestId, (one) => this.#card(one), (card, record) => {
      setText(card.deadline, record.deadline ? `declined in ${duration(Date.parse(record.deadline) - Date.now())}` : "waits for ever");
    });
    // What had the focus is answered: on to the next, never to the top of the page.
    const gone = this.answering ? !pending.some((one) => one.requestId === this.answering) : !holdsFocus();
    if (focused && gone) {
      this.answering = null;
      $(pending.length ? "inbox-title" : "verdict").focus();
    }
    const fresh = pending.filter((one) => !this.announced.has(one.requestId));
    if (fresh.length) put("inbox-live", fresh.map((one) => $("inbox-list").nodes.get(one.requestId).spoken).join(" "));
    this.announced = new Set(pending.map((one) => one.requestId));
  }

  #card(record) {
    const [title, decisions] = KINDS[record.kind] ?? OTHER;
    const { requestId } = record;
    const params = record.params ?? {};
    const id = `title-${requestId}`;
    const deadline = span();
    const error = el("p.error", { role: "alert" });
    const buttons = [];
    const disable = (disabled) => buttons.forEach((button) => Object.assign(button, { disabled }));
    const answer = async (body) => {
      // A button that is disabled loses the focus.
      this.answering = holdsFocus() ? requestId : null;
      disable(true);
      setText(error, "");
      try {
        const { request } = await post(`/v1/codexd/requests/${requestId}/answer`, body);
        this.settled(request);
      } catch (failure) {
        // Somebody else was faster, or Codex took it back: the record says how it stands.
        if (failure.data?.request) this.settled(failure.data.request);
        this.answering = null;
        disable(false);
        setText(error, failure.message);
      }
    };
    const button = (text, body, primary) => {
      const made = el(primary ? "button.primary" : "button", { text, disabled: true });
      if (body) made.addEventListener("click", () => answer(body));
      buttons.push(made);
      return made;
    };
    let about, form, choices = words(decisions);
    try {
      choices = decisionsOf(record, decisions);
      form = formOf(record, () => button("Send the answer", null, true), answer);
      about = [...subjectOf(params), listOf(params, form?.elements.length > 1 ? ["questions", "requestedSchema"] : [])];
    } catch {
      // Not of the shape we know: everything as it was sent.
      about = [listOf(params, null)];
    }
    const actions = choices.map(([text, decision], i) => button(text, { decision }, i === 0 && !form));
    setTimeout(disable, SETTLE, false);
    const card = el(
      "li.card.request",
      { "aria-labelledby": id, "data-id": requestId },
      el("h3", { id, text: title }),
      el("p.meta", {}, span("", this.name(record)), params.cwd ? span("", `in ${told(params.cwd)}`) : null, deadline),
      params.reason ? el("p.reason", { text: told(params.reason) }) : null,
      ...about,
      form,
      el("div.actions", {}, ...actions),
      error,
      el("details", {}, el("summary", { text: "Everything Codex sent" }), box("pre", "Parameters", JSON.stringify(params, null, 2))),
    );
    const spoken = [...card.querySelectorAll("h3, .reason, pre.command, .path, li, legend")].map((part) => part.textContent).join(" ");
    return Object.assign(card, { deadline, spoken });
  }
}

/** A string as it is, anything else as JSON. */
const told = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const present = (object) => Object.entries(object).filter(([, value]) => value !== null);

/** Permissions, a line for each: a label and what it is for. What has a shape we do not know is shown as far as it goes. */
function grants(label, value) {
  const { access, path, ...more } = Object(value);
  if (access && path && !Object.keys(more).length) {
    const plain = path.type === "path" && Object.keys(path).length === 2;
    return [[`${label} ${told(access)}`, told(plain ? path.path : path)]];
  }
  const members = typeof value === "object" ? present(value) : [];
  const inner = (name) => (Array.isArray(value) || /^(fileSystem|entries)$/.test(name) ? label : `${label} ${name}`);
  return members.length ? members.flatMap(([name, one]) => grants(inner(name), one)) : [[label, told(value)]];
}

/** What only tells requests apart, changes nothing, or is shown by other parts of the card, whatever the kind. */
const SEEN = /^((approval|call|conversation|elicitation|item|thread|turn)Id|startedAtMs|cwd|reason|command(Actions)?|parsedCmd|availableDecisions|changes|isBlocking|autoResolutionMs|message)$/;
/** `member value`: what goes without saying. */
const USUAL = /^(environmentId local|kind command|mode (form|url))$/;

/** Labels for people; without a prototype, as the request says what its members are called. */
const LABELS = {
  __proto__: null,
  permissions: "permission:",
  additionalPermissions: "extra permission:",
  grantRoot: "and to write below",
  proposedExecpolicyAmendment: "offered as a rule:",
};

/**
 * What else was sent, `[label, text]` each: nobody is to agree to what this page does not know and so does not show.
 * `form`: what of it the form shows; null if no part of the card shows anything.
 */
export function factsOf(params, form) {
  const facts = present(params).flatMap(([name, value]) => {
    if (form && (SEEN.test(name) || form.includes(name) || USUAL.test(`${name} ${told(value)}`))) return [];
    const label = LABELS[name] ?? `${name}:`;
    return /permission:$/.test(label) ? grants(label, value) : [[label, told(value)]];
  });
  // Codex sends paths twice, in an older form too.
  return [...new Map(facts.map((fact) => [told(fact), fact])).values()];
}

const listOf = (...given) => el("ul", {}, ...factsOf(...given).map(([label, text]) => el("li", {}, `${label} `, el("code", { text }))));

/** What it is about, as elements. */
function subjectOf({ command, changes, message }) {
  return [
    command == null ? null : box("pre.command", "The command", told(command)),
    ...(changes ?? []).flatMap(({ path, kind, diff: text, ...more }) => {
      const { type, ...how } = kind ?? {};
      const facts = present({ ...how, ...more }).map(([name, value]) => `${name}: ${told(value)}`);
      return [el("p.path", {}, el("code", { text: told(path) }), ` ${[type, ...facts].join(" ")}`), diff(told(text ?? ""))];
    }),
    message == null ? null : el("p", { text: told(message) }),
  ];
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
    const offered = (params.availableDecisions ?? []).filter((decision) => Object(decision) === decision);
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
    // What is undefined is not sent.
    answer({ answers: Object.fromEntries(fields.map((field) => [field.name, field.value()])) });
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
  const legend = el("legend", {}, span("meta", header ? `${header} ` : ""), question);
  return {
    name: id,
    element: el("fieldset", {}, legend, ...choices.map((choice) => choice.element), other),
    value: () => other?.value || choices.find((choice) => choice.input.checked)?.input.value || "",
  };
}

/** One property of an elicitation's form. */
function schemaField(name, schema, required) {
  const label = schema.title ?? name;
  const about = span("meta", schema.description);
  if (schema.type === "boolean") {
    const input = el("input", { type: "checkbox", checked: schema.default });
    return { name, element: el("label.choice", {}, input, label, about), value: () => input.checked };
  }
  const values = schema.enum;
  const numeric = /^(number|integer)$/.test(schema.type);
  const input = values
    ? el("select", {}, ...values.map((value) => el("option", { text: value, value })))
    : el("input", { type: numeric ? "number" : "text", step: numeric ? "any" : null, required, value: schema.default ?? "" });
  const value = () => (input.value === "" ? undefined : numeric ? Number(input.value) : input.value);
  return { name, element: el("label", {}, `${label} `, input, about), value };
}
