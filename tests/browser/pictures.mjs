// The pictures of the README: something runs, something waits, something has failed.

import { join } from "node:path";
import { ask, assert, live, resolve, scenario, TOLD } from "./drive.mjs";
import { readFileSync, statSync } from "node:fs";

const SAID = `I found the cause: the retry loop keeps the old deadline, so after a laptop has slept every attempt times out at once.

I will set the deadline inside the loop, and add a test with a clock that jumps. Running the tests of that module first to see it fail.`;

/** Things that a rule would complain about in axe's own injected code, not in the page. */
const audit = async (page) => {
  await page.evaluate(readFileSync(resolve("axe-core/axe.min.js"), "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ").slice(0, 600)}`);
};

scenario(async ({ page }) => {
  await live(page);
  const session = (title) => ({ body: { cwd: "/srv/lighthouse", metadata: { title } } });
  for (const [title, prompt] of [
    ["Release notes", "Wrote the notes for 0.4.0: two fixes, one new flag, one thing that is gone."],
    ["Flaky login test", "fail: usageLimitExceeded"],
  ]) await ask("turn", { ...session(title), prompt });
  const working = await ask("turn", { ...session("Retry after sleep"), prompt: "hang:" });
  const record = await ask("session", { session: working.session });
  const note = (method, params) => ask("turn", { session: TOLD.nightly, prompt: `notify: ${method} ${JSON.stringify({ threadId: record.threadId, turnId: working.turn, ...params })}` });
  for (const delta of SAID.match(/.{1,40}(\s|$)/gs)) await note("item/agentMessage/delta", { itemId: "m1", delta });
  await note("item/started", { item: { type: "commandExecution", id: "c1", command: "cargo test retry::" }, startedAtMs: Date.now() });
  await ask("turn", { ...session("Clean up fixtures"), prompt: "run: git rm -r tests/fixtures/old && git commit -m 'Old fixtures go'" });
  await ask("run", { prompt: "Say in one sentence what this repository is for." });
  await ask("run", { prompt: "slow: 900 1000" });
  await page.getByRole("heading", { name: "Run this command?" }).waitFor();
  await page.getByText("Codex waits for you: 1 request.").waitFor();
  await page.waitForFunction(() => document.querySelectorAll("#runs-list li").length === 2);
  await page.waitForFunction(() => document.querySelector("#inbox-list button.primary:enabled"));
  await page.waitForTimeout(2500); // the chart is drawn every two seconds
  await page.setViewportSize({ width: 1160, height: 800 });
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await audit(page), [], colorScheme);
    const path = join(TOLD.pictures, `${colorScheme}.png`);
    await page.screenshot({ path, animations: "disabled" });
    assert(statSync(path).size < 150000, `${path} has ${statSync(path).size} bytes`);
  }
  // On a phone nothing is cut off sideways, and everything is large enough for a finger.
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(300);
  assert.deepEqual(await audit(page), [], "phone");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert(wide <= 390, `${wide} pixels wide`);
  await page.screenshot({ path: join(TOLD.pictures, "phone.png"), animations: "disabled" });
});
