// With a token the page asks for it, keeps it in this tab only, and sends it in headers only.

import { ask, assert, live, scenario, TOLD } from "./drive.mjs";

scenario(async ({ page, context, urls }) => {
  const headers = [];
  // A request that a reload has cut off has no headers to show.
  page.on("request", (request) => request.allHeaders().then((fields) => headers.push(fields), () => {}));
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.equal(await page.locator("#main").isVisible(), false);
  await page.getByLabel("Token").fill("not-the-token-at-all");
  await page.keyboard.press("Enter");
  await page.getByText("That is not the token.").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0, "a wrong token is not kept");

  await page.getByLabel("Token").fill(TOLD.token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await live(page);
  assert.equal(await page.evaluate(() => sessionStorage.getItem("codexd.token")), TOLD.token);
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  assert.equal(await page.evaluate(() => document.cookie), "");
  // It holds for the stream and for fetches, and after a reload.
  await page.reload();
  await live(page);
  assert(headers.some((fields) => fields.authorization === `Bearer ${TOLD.token}`), "no request had the header");
  const text = Buffer.from(TOLD.token).toString("base64url");
  for (const url of [...urls, page.url()]) {
    assert(!decodeURIComponent(url).includes(TOLD.token) && !url.includes(text) && !url.includes("token="), url);
  }
  assert(urls.some((url) => url.startsWith("ws://") && url.includes("after=")), urls.join());
  assert(headers.every((fields) => !fields.referer?.includes(TOLD.token)));

  // Another tab knows nothing of it.
  const other = await context.newPage();
  await other.goto(TOLD.base);
  await other.getByRole("heading", { name: "Sign in" }).waitFor();

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByText("You are signed out.").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});
