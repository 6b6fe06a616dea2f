// What is agreed to by a click is seen before it, all of it: permissions of every shape, and what this page has never heard of.

import { ask, assert, live, scenario } from "./drive.mjs";

scenario(async ({ page }) => {
  await live(page);
  const card = page.locator("#inbox-list .request");
  let session;
  /** What the card of such a request shows, without the box with everything. */
  const shown = async (method, params) => {
    ({ session } = await ask("turn", { session, prompt: `request: ${method} ${JSON.stringify(params)}` }));
    await card.waitFor();
    await page.evaluate(() => document.querySelector("#inbox-list details").remove());
    const [text, live] = [await card.textContent(), await page.textContent("#inbox-live")];
    await card.getByRole("button", { name: "Decline", exact: true }).click();
    await card.waitFor({ state: "detached" });
    await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle");
    return { text, live };
  };
  const expect = async (method, params, ...expected) => {
    const { text, live } = await shown(method, params);
    for (const part of expected) assert(text.includes(part), `${part} is not in ${text}`);
    return live;
  };

  const permissions = { fileSystem: { entries: [{ path: { type: "path", path: "/home/u/.ssh" }, access: "write" }] }, clipboard: true };
  const spoken = await expect("item/permissions/requestApproval", { permissions }, "permission: write /home/u/.ssh", "permission: clipboard true");
  assert(spoken.includes("/home/u/.ssh"), spoken);

  await expect(
    "item/commandExecution/requestApproval",
    {
      command: "ls \u202e# harmless\u061c", reason: "a\u2066b\u0007", additionalPermissions: { fileSystem: { write: ["/home/u/.ssh"] }, network: { enabled: true } },
      networkApprovalContext: { host: "x.example", protocol: "https" }, proposedExecpolicyAmendment: ["rm"], availableDecisions: ["accept"], brandNew: { power: "all\u200f" },
    },
    "ls \\u{202e}# harmless\\u{61c}", "a\\u{2066}b\\u{7}", "extra permission: write /home/u/.ssh", "extra permission: network enabled true",
    'networkApprovalContext: {"host":"x.example","protocol":"https"}', 'offered as a rule: ["rm"]', 'brandNew: {"power":"all\\u{200f}"}',
  );
  await expect("item/commandExecution/requestApproval", { command: null, networkApprovalContext: { host: "x.example", protocol: "http" } }, '{"host":"x.example","protocol":"http"}');

  const move = { path: "/a", kind: { type: "update", move_path: "/home/u/.ssh/config" }, diff: "+x\u202e" };
  await expect("item/fileChange/requestApproval", { grantRoot: "/etc", changes: [move] }, "/a update move_path: /home/u/.ssh/config", "and to write below /etc", "+x\\u{202e}");
  // Of no shape that anybody knows: everything.
  await expect("item/fileChange/requestApproval", { changes: { "/b": "new" }, turnId: "u" }, 'changes: {"/b":"new"}');

  await expect("mcpServer/elicitation/request", { mode: "url", message: "Sign in", url: "https://a.example/\u202e", serverName: "shop", elicitationId: "e" },
    "Sign in", "url: https://a.example/\\u{202e}", "serverName: shop", "I have done so");
  const requestedSchema = { type: "object", properties: { sure: { type: "boolean", title: "Sure", description: "deletes it all" } } };
  await expect("mcpServer/elicitation/request", { mode: "form", message: "Go on?", serverName: "shop", requestedSchema, _meta: { tool: "wipe" } },
    "Go on?", "Suredeletes it all", "serverName: shop", '_meta: {"tool":"wipe"}');
});
