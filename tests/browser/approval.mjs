// What the real Codex asks is answered by clicks: a command accepted, another declined, a file change accepted.

import { ask, assert, live, scenario, TOLD } from "./drive.mjs";

scenario(async ({ page }) => {
  await live(page);
  const card = page.locator("#inbox-list .request");
  const idle = () => page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
  const body = { cwd: TOLD.cwd, sandbox: "workspace-write", metadata: { title: "Approvals" } };

  const { session } = await ask("turn", { body, prompt: "run: touch one.txt" });
  await card.waitFor();
  const shown = await card.textContent();
  for (const text of ["Run this command?", "touch one.txt", `in ${TOLD.cwd}`, "Do you want to run this?", "Approvals"]) assert(shown.includes(text), `${text} is not in ${shown}`);
  await page.getByText("Codex waits for you: 1 request.").waitFor();
  assert.match(await page.title(), /^\(1\) codexd/);
  assert.match(await page.textContent("#inbox-live"), /touch one.txt/);
  // It comes before everything else of the page.
  const order = await page.evaluate(() => [...document.querySelectorAll("main > *, main .columns section")].map((node) => node.id || node.getAttribute("aria-labelledby")));
  assert(order.indexOf("inbox") < order.indexOf("sessions-title"), order.join());
  // A card that has just come takes no click yet; playwright waits until it does.
  await card.getByRole("button", { name: "Run it", exact: true }).click();
  await card.waitFor({ state: "detached" });
  await idle();
  assert.match(await page.title(), /^codexd/);

  await ask("turn", { session, prompt: "run: touch two.txt" });
  // By the keyboard alone.
  await card.getByRole("button", { name: "Decline", exact: true }).and(page.locator(":enabled")).waitFor();
  await card.getByRole("button", { name: "Decline", exact: true }).focus();
  await page.keyboard.press("Enter");
  await card.waitFor({ state: "detached" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "verdict", "the focus is not lost");
  await idle();

  await ask("turn", { session, prompt: `patch: ${TOLD.outside} hello` });
  await card.waitFor();
  assert(await card.getByText(TOLD.outside, { exact: true }).isVisible());
  assert.match(await card.locator(".diff").textContent(), /hello/);
  await card.getByRole("button", { name: "Make the change", exact: true }).click();
  await card.waitFor({ state: "detached" });
  await idle();
});
