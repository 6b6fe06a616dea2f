// A prompt full of markup, in every place where text of Codex is shown: it is text there, and nothing else.

import { ask, assert, live, scenario } from "./drive.mjs";

const MARKUP = `<img src=x onerror="window.hit=1"><script>window.hit=2</script><b id=bold>b</b><svg onload=window.hit=3><iframe srcdoc="<script>parent.hit=4</script>"></iframe>&amp;<!--`;

scenario(async ({ page }) => {
  await live(page);
  const elements = () => page.evaluate(() => [...document.querySelectorAll("*")].filter((node) => ["SCRIPT", "IFRAME", "IMG", "B"].includes(node.tagName)).map((node) => node.outerHTML));
  const before = await elements();
  const title = `<i>title</i>${MARKUP}`;
  const { session } = await ask("turn", { body: { metadata: { title } }, prompt: MARKUP });
  await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
  assert(await page.getByText(MARKUP).first().isVisible(), "it is not shown");
  assert.equal(await page.textContent("#sessions-list .said"), `done: ${MARKUP}`);
  assert.equal(await page.textContent("#sessions-list .name"), title);
  await ask("turn", { session, prompt: `run: echo ${MARKUP}` });
  await page.locator("#inbox-list .command").waitFor();
  assert((await page.textContent("#inbox-list .command")).includes(MARKUP));
  await page.click("#inbox-list summary");
  await page.getByRole("button", { name: "Decline", exact: true }).click();
  await page.locator("#inbox-list .request").waitFor({ state: "detached" });
  await ask("turn", { session, prompt: `patch: x.txt ${MARKUP}` });
  await page.locator("#inbox-list .diff").waitFor();
  assert((await page.textContent("#inbox-list .diff")).includes(MARKUP));
  await page.getByRole("button", { name: "Decline", exact: true }).click();
  await page.locator("#inbox-list .request").waitFor({ state: "detached" });
  await ask("turn", { session, prompt: `ask: ${MARKUP}` });
  await page.locator("#inbox-list legend").waitFor();
  assert((await page.textContent("#inbox-list legend")).includes(MARKUP));
  // In the events too: row and detail.
  await page.fill("#events-type", "app-server.turn.message.delta");
  // Rows are used again and again: not before they are those of the filter.
  await page.waitForFunction(() => [...document.querySelectorAll(".event:not([hidden]) .type")].every((type) => type.textContent === "app-server.turn.message.delta"));
  await page.locator(".event:not([hidden])").last().click();
  await page.waitForFunction(() => document.getElementById("detail-text").textContent.includes('"delta"'));
  assert.deepEqual(await elements(), before, "elements that were not there before");
  assert.equal(await page.evaluate(() => window.hit), undefined);
  assert.equal(await page.evaluate(() => document.getElementById("bold")), null);
});
