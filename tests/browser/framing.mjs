// A page from elsewhere can neither frame this one, nor load its scripts, nor read what the routes say.

import { createServer } from "node:http";
import { assert, live, scenario, TOLD } from "./drive.mjs";

scenario(async ({ page, wrong }) => {
  const html = `<!doctype html><title>elsewhere</title><iframe id="frame" src="${TOLD.base}/"></iframe>`;
  const server = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(html));
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.locator("#frame").waitFor();
  await page.waitForFunction(() => document.readyState === "complete");
  const frame = page.frames().find((one) => one !== page.mainFrame());
  assert.equal(await frame.locator("#verdict").count().catch(() => 0), 0, "it was framed");
  // By Sec-Fetch-Site; for browsers that do not say that, frame-ancestors is there.
  const shown = await frame.locator("body").innerText();
  assert(shown.includes("forbidden_origin"), `it was not refused: ${shown}`);
  assert.equal(wrong.length, 0, wrong.join());
  const loaded = await page.evaluate((base) => new Promise((done) => {
    const script = document.createElement("script");
    script.type = "module";
    script.src = `${base}/page/app.mjs`;
    script.onload = () => done("loaded");
    script.onerror = () => done("refused");
    document.head.append(script);
  }), TOLD.base);
  assert.equal(loaded, "refused");
  const read = await page.evaluate((base) => fetch(`${base}/v1/codexd/status`).then(() => "read", () => "refused"), TOLD.base);
  assert.equal(read, "refused");
  const streamed = await page.evaluate((base) => new Promise((done) => {
    const socket = new WebSocket(`${base.replace("http", "ws")}/v1/codexd/events`);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }), TOLD.base);
  assert.equal(streamed, "refused");
  // A link to it works: that is no secret and does nothing.
  await page.goto(TOLD.base);
  await live(page);
  server.close();
}, { path: null });
