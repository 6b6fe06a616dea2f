// Questions and forms are answered in the page, with the mouse or without.

import { ask, assert, live, scenario } from "./drive.mjs";

scenario(async ({ page }) => {
  await live(page);
  const card = page.locator("#inbox-list .request");
  const said = (text) => page.waitForFunction((text) => document.querySelector("#sessions-list .said")?.textContent.includes(text), text);
  const { session } = await ask("turn", { prompt: "ask: Which way?" });
  await card.locator("legend", { hasText: "Which way?" }).waitFor();
  await card.getByRole("radio", { name: /^No/ }).check();
  await card.getByRole("button", { name: "Send the answer" }).click();
  await said('{"answers":{"q1":{"answers":["No"]}}}');

  await ask("turn", { session, prompt: "ask: In other words?" });
  await card.getByLabel("Another answer").fill("perhaps <b>");
  await page.waitForFunction(() => document.querySelector("#inbox-list button.primary:enabled"));
  await page.keyboard.press("Enter");
  await said('["perhaps <b>"]');

  await ask("turn", { session, prompt: "elicit: Your name, please" });
  await card.getByText("Your name, please").first().waitFor();
  await card.getByLabel("Answer").fill("Ada");
  await card.getByRole("button", { name: "Send the answer" }).click();
  await said('"content":{"answer":"Ada"}');

  await ask("turn", { session, prompt: "perm: /srv/data" });
  await card.getByText("/srv/data", { exact: true }).waitFor();
  await card.getByRole("button", { name: "Grant for this turn" }).click();
  await said('"scope":"turn"');

  // Somebody else answers first: the card goes, wherever it was answered.
  const { turn } = await ask("turn", { session, prompt: "ask: Too late?" });
  await card.locator("legend", { hasText: "Too late?" }).waitFor();
  const id = await card.getAttribute("data-id");
  await page.evaluate((id) => fetch(`/v1/codexd/requests/${id}/answer`, { method: "POST", headers: { "content-type": "application/json" }, body: '{"decision":"decline"}' }), id);
  await card.waitFor({ state: "detached" });
  assert(turn);
});
