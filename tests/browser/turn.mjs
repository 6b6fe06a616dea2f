// A turn is seen while it runs: its words in the session, its events in the list, the sentence at the top.

import { allRows, ask, assert, live, scenario } from "./drive.mjs";

scenario(async ({ page }) => {
  await live(page);
  // The list of what waits comes by a call of its own, live or not.
  await page.waitForFunction(() => document.querySelector("#verdict").textContent === "All quiet. Nothing needs you.");
  const { session } = await ask("turn");
  const said = page.locator("#sessions-list .said");
  await page.getByText("Codex is working on 1 turn. Nothing needs you.").waitFor();
  // Before it is over there are words already, and more of them come.
  await page.waitForFunction(() => document.querySelector("#sessions-list .said")?.textContent.includes("word3 "));
  const early = await said.textContent();
  assert(!early.includes("word29"), early);
  assert.equal(await page.textContent("#sessions-list .badge"), "working");
  await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
  const words = Array.from({ length: 30 }, (_, i) => `word${i}`).join(" ");
  assert.equal(await said.textContent(), words);
  await page.getByText("All quiet. Nothing needs you.").waitFor();
  const rows = await allRows(page);
  const deltas = rows.filter((row) => row.type === "app-server.turn.message.delta");
  assert.equal(deltas.length, 30);
  assert.deepEqual(rows.map((row) => row.seq), rows.map((_, i) => i + 1), "every event once");

  // Filters, and a jump to any event.
  await page.fill("#events-type", "session.");
  await page.waitForFunction(() => document.querySelectorAll(".event:not([hidden])").length === 1);
  assert.match(await page.textContent(".event:not([hidden]) .type"), /^session\./);
  await page.fill("#events-type", "");
  await page.selectOption("#events-session", session);
  await page.waitForFunction(() => / of \d+/.test(document.getElementById("events-count").textContent));
  await page.selectOption("#events-session", "");
  await page.fill("#events-seq", "2");
  await page.click("#events-jump button");
  await page.locator("#event-2[aria-selected=true]").waitFor();
  await page.focus("#events-list");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("detail-text").textContent.includes('"seq": 3,'));
  await page.click("#detail-close");
  assert.equal(await page.evaluate(() => document.activeElement.id), "events-list");
  await page.click("#events-live");
  await page.waitForFunction((last) => document.getElementById(`event-${last}`), rows.at(-1).seq);
});
