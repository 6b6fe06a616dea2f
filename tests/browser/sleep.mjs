// The machine sleeps for an hour, and when it wakes the connection is dead without a word: the page notices, says so, and
// goes on where it was as soon as somebody answers.

import { allRows, ask, assert, live, scenario, TOLD } from "./drive.mjs";

scenario(async ({ page }) => {
  await page.clock.install();
  await page.goto(TOLD.base);
  await live(page);
  await page.evaluate(() => (window.sameDocument = true));
  const { session } = await ask("turn", { prompt: "say 20 words" });
  await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
  await ask("freeze"); // it keeps the connection, and says nothing
  await page.clock.fastForward("01:00:00");
  await page.waitForFunction(() => document.getElementById("link-text").textContent.startsWith("Disconnected: no answer"));
  assert.equal(await page.textContent("#verdict"), "Not connected to the daemon.");
  await ask("thaw");
  await ask("turn", { session, prompt: "say 20 words" });
  await live(page);
  const log = await ask("log");
  await page.waitForFunction((last) => document.getElementById(`event-${last}`), log.at(-1));
  assert.deepEqual((await allRows(page)).map((row) => row.seq), log, "each once, in order");
  assert.equal(await page.evaluate(() => window.sameDocument), true, "the page was loaded again");
}, { path: null });
