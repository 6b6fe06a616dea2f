// The daemon is stopped, and killed, while the page looks on: every event is there once, and the page was never loaded again.

import { allRows, ask, assert, live, scenario } from "./drive.mjs";

scenario(async ({ page, context }) => {
  await live(page);
  await page.evaluate(() => (window.sameDocument = true));
  const { session } = await ask("turn", { prompt: "say 40 words" });
  const disconnected = () => page.waitForFunction(() => /^(Disconnected|Connecting)/.test(document.getElementById("link-text").textContent));
  for (const how of ["stop", "kill"]) {
    await ask("turn", { session, prompt: "slow: 20 5" });
    await ask(how);
    await disconnected();
    assert.equal(await page.textContent("#verdict"), "Not connected to the daemon.");
    await ask("start");
    // Whatever happens before the page is back is not lost either.
    await ask("turn", { session, prompt: "say 40 words" });
    await live(page);
  }
  // The connection breaks without a word, as in a laptop's sleep: offline, and back.
  await context.setOffline(true);
  await context.setOffline(false);
  await ask("turn", { session, prompt: "say 10 words" });
  await page.waitForFunction(() => document.querySelector("#sessions-list .said")?.textContent.trim().endsWith("word9"));
  await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
  const log = await ask("log");
  await page.waitForFunction((last) => document.getElementById(`event-${last}`), log.at(-1));
  const seen = (await allRows(page)).map((row) => row.seq);
  assert.deepEqual(seen, log, "each once, in order");
  assert(seen.length > 120, `${seen.length} events`);
  assert.equal(await page.evaluate(() => window.sameDocument), true, "the page was loaded again");
});
