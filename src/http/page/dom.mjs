// Elements, and values as people read them. Text from outside is text: there is no way here to make markup of it.

/** An element, `tag` or `tag.class`: its text, its properties (handlers too) by name, its attributes; its children. */
export function el(name, { text, ...rest } = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.className = classes.join(" ");
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(rest)) {
    if (value == null) continue;
    if (key in element && !key.startsWith("aria")) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Text in a span. */
export const span = (name, text = "") => el(`span.${name}`, { text });

/** Text in a box that scrolls, and that a keyboard can scroll. */
export const box = (name, label, text = "") => el(name, { tabindex: 0, role: "region", "aria-label": label, text });

/** The element with that id. */
export const $ = (id) => document.getElementById(id);

/** Sets a text only if it is another one: assistive technology reads again what is set. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for the element with that id. */
export const put = (id, text) => setText($(id), text);

/** Makes the children of `parent` those of `items`, by key: each is made once, updated, and moved only if it must be. */
export function keyed(parent, items, keyOf, make, update) {
  const nodes = (parent.nodes ??= new Map());
  const keys = new Set(items.map(keyOf));
  for (const [key, node] of nodes) {
    if (!keys.has(key)) {
      node.remove();
      nodes.delete(key);
    }
  }
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = nodes.get(key);
    if (!node) nodes.set(key, (node = make(item)));
    update?.(node, item);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
}

/** 950 ms, 4.2 s, 3 min, 5 h 12 min. */
export function duration(ms) {
  if (!(ms >= 0)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const NUMBER = new Intl.NumberFormat("en-US");

/** A time of the day here, for an ISO time. */
export function clock(iso) {
  const time = Date.parse(iso);
  return Number.isNaN(time) ? "" : TIME.format(time);
}

/** 12,345 */
export const number = (value) => NUMBER.format(value);

/** `1 request`, `2 requests`. */
export const some = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** The last two parts of a path. */
export function shortPath(path) {
  const parts = String(path ?? "").split("/").filter(Boolean);
  return parts.length > 2 ? `…/${parts.slice(-2).join("/")}` : String(path ?? "");
}
