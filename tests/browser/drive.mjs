// What every scenario begins with: a browser, the page, and a line to the test that started it.
//
// The test speaks JSON, a line each: it says what there is (`TOLD`), `ask` has it do something, `report` ends a scenario.
// Any violation of the page's Content-Security-Policy, and any error in its scripts, fails a scenario, whatever it is about.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.CODEXD_BROWSER_MODULES}/`);
const { chromium } = require("playwright-core");

/** What the test has told: base, token and whatever the scenario needs. */
export const TOLD = JSON.parse(process.env.CODEXD_TOLD);
/** Time for anything that must happen. */
export const PATIENCE = 30000;
/** The path of an npm module's file. */
export const resolve = (name) => require.resolve(name);

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the test do something; what it answers. */
export async function ask(what, more = {}) {
  console.log(JSON.stringify({ ask: what, ...more }));
  const { value, done } = await lines.next();
  assert(!done, "the test is gone");
  return JSON.parse(value);
}

/** Runs a scenario in a fresh browser. */
export async function scenario(play, { path = "/", context: options = {} } = {}) {
  let browser;
  const wrong = [];
  try {
    browser = await chromium.launch({ executablePath: process.env.CODEXD_CHROMIUM, headless: true, args: FLAGS });
    const context = await browser.newContext({ viewport: { width: 1240, height: 860 }, ...options });
    context.setDefaultTimeout(PATIENCE);
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
      });
    });
    const page = await context.newPage();
    const urls = [];
    page.on("request", (request) => urls.push(request.url()));
    page.on("websocket", (socket) => urls.push(socket.url()));
    page.on("pageerror", (error) => wrong.push(`error in the page: ${error.stack}`));
    page.on("console", (message) => {
      if (/CSP violation|Content.Security.Policy|Trusted ?Type/i.test(message.text())) wrong.push(message.text());
    });
    if (path !== null) await page.goto(TOLD.base + path);
    const report = await play({ page, context, browser, urls, wrong });
    assert.deepEqual(wrong, []);
    await browser.close();
    console.log(JSON.stringify({ report: report ?? {} }));
    process.exit(0);
  } catch (error) {
    console.log(JSON.stringify({ failed: `${error.stack}\n${wrong.join("\n")}` }));
    await browser?.close().catch(() => {});
    process.exit(1);
  }
}

/** Waits until the page has caught up with the daemon. */
export const live = (page) => page.waitForFunction(() => document.getElementById("link-text")?.textContent === "Live");

/** Every event row there is, by scrolling through the whole list: `{seq, type, text}`. */
export async function allRows(page) {
  return page.evaluate(async () => {
    const list = document.getElementById("events-list");
    const shown = () => [...list.querySelectorAll(".event:not([hidden])")];
    const row = parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    // Until the first and the last row of the view are there: how many frames that takes is the browser's affair.
    const drawn = async () => {
      for (;;) {
        const places = shown().map((node) => Number(node.getAttribute("aria-posinset")));
        const count = Number(shown()[0]?.getAttribute("aria-setsize"));
        const first = Math.floor(list.scrollTop / row) + 1;
        const last = Math.min(count, Math.floor((list.scrollTop + list.clientHeight - 1) / row) + 1);
        if (places.includes(first) && places.includes(last)) return;
        await new Promise((done) => requestAnimationFrame(done));
      }
    };
    const rows = new Map();
    // A page that draws before it has heard of this goes back to the end, which it follows: with a clock of the test's own,
    // frames do not wait for what has happened before them.
    while (list.scrollTop > 0) {
      const heard = new Promise((done) => list.addEventListener("scroll", done, { once: true }));
      list.scrollTop = 0;
      await heard;
    }
    await drawn();
    for (let before = -1; list.scrollTop > before; ) {
      before = list.scrollTop;
      for (const node of shown()) {
        const [seq, , type, text] = [...node.children].map((child) => child.textContent);
        rows.set(Number(node.getAttribute("aria-posinset")), { seq: Number(seq), type, text });
      }
      list.scrollTop += list.clientHeight / 2;
      await drawn();
    }
    return [...rows.entries()].sort(([a], [b]) => a - b).map(([, row]) => row);
  });
}

export { assert };
