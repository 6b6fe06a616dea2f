// Elements, and values as people read them. Text from outside is text: there is no way here to make markup of it.

/** Text as it is shown: what would reverse or hide a part of it is an escape, as in a terminal; ends of lines and tabs stay. */
export const visible = (text) =>
  String(text ?? "").replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (mark) => `\\u{${mark.charCodeAt(0).toString(16)}}`);

/** An element, `tag` or `tag.class`: its text, its properties (handlers too) by name, its attributes; its children. */
export function el(name, { text, ...rest } = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  element.className = classes.join(" ");
  if (text !== undefined) setText(element, text);
  for (const [key, value] of Object.entries(rest)) {
    if (value == null) continue;
    if (key in element && !key.startsWith("aria")) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null).map((child) => (child.nodeType ? child : visible(child))));
  return element;
}

/** Text in a span. */
export const span = (name, text) => el(`span.${name}`, { text });

/** Text in a box that scrolls, and that a keyboard can scroll. */
export const box = (name, label, text) => el(name, { tabindex: 0, role: "region", "aria-label": label, text });

/** The element with that id. */
export const $ = (id) => document.getElementById(id);

/** Sets a text only if it is another one: assistive technology reads again what is set. All text of the page goes this way. */
export function setText(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
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

/** A time of the day here, for an ISO time. */
export function clock(iso) {
  const time = Date.parse(iso);
  return Number.isNaN(time) ? "" : TIME.format(time);
}

/** 12,345 */
export const number = new Intl.NumberFormat("en-US").format;

/** `1 request`, `2 requests`. */
export const some = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** The last two parts of a path. */
export function shortPath(path) {
  const parts = path.split("/").filter(Boolean);
  return parts.length > 2 ? `…/${parts.slice(-2).join("/")}` : path;
}
