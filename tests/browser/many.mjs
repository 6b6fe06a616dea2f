// 10,000 events come as fast as they can, and are scrolled through: the document stays small and frames stay short.

import { ask, assert, live, scenario } from "./drive.mjs";

/**
 * Milliseconds of script in a frame (half of them, 99 in 100, every one) and between two frames (half of them), and seconds of
 * script in all. With room for a busy machine, on which others make the frames late: that is reported, not judged.
 */
const [SCRIPT, BETWEEN, ALL] = [{ median: 8, p99: 100, longest: 500 }, { median: 40 }, 3];

scenario(async ({ page, context }) => {
  await live(page);
  await page.evaluate(() => {
    const seen = (window.frames_ = { script: [], between: [], nodes: 0 });
    const real = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (callback) => real((at) => {
      const begin = performance.now();
      callback(at);
      seen.script.push(performance.now() - begin);
    });
    let last = performance.now();
    const tick = (at) => {
      seen.between.push(at - last);
      last = at;
      seen.nodes = Math.max(seen.nodes, document.querySelectorAll("*").length);
      real(tick);
    };
    real(tick);
  });
  const metrics = await context.newCDPSession(page);
  await metrics.send("Performance.enable");
  const scripting = async () => (await metrics.send("Performance.getMetrics")).metrics.find(({ name }) => name === "ScriptDuration").value;
  const before = await scripting();
  const begin = Date.now();
  await ask("turn", { prompt: "say 10200 words" });
  await page.waitForFunction(() => document.querySelector("#sessions-list .badge")?.textContent === "idle", null, { timeout: 120000 });
  const took = Date.now() - begin;
  const coming = (await scripting()) - before;
  const count = Number((await page.textContent("#events-count")).split(" ")[0].replace(",", ""));
  assert(count > 10200, `${count} events`);
  // From the end to the beginning and back, a screen at a time.
  await page.evaluate(async () => {
    const list = document.getElementById("events-list");
    for (const [to, steps] of [[0, 80], [list.scrollHeight, 80]]) {
      const from = list.scrollTop;
      for (let i = 1; i <= steps; i += 1) {
        list.scrollTop = from + ((to - from) * i) / steps;
        await new Promise((done) => requestAnimationFrame(done));
      }
    }
  });
  const seen = await page.evaluate(() => window.frames_);
  const of = (numbers, part) => [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(numbers.length * part))].toFixed(1);
  const report = {
    events: count, took, scriptSeconds: coming.toFixed(2), frames: seen.between.length, elements: seen.nodes,
    script: { median: of(seen.script, 0.5), p99: of(seen.script, 0.99), longest: of(seen.script, 1) },
    between: { median: of(seen.between, 0.5), p99: of(seen.between, 0.99), longest: of(seen.between, 1) },
  };
  assert(seen.nodes < 1000, `${seen.nodes} elements in the document`);
  assert(coming < ALL, JSON.stringify(report));
  for (const [bounds, found] of [[SCRIPT, report.script], [BETWEEN, report.between]]) {
    for (const [name, bound] of Object.entries(bounds)) assert(Number(found[name]) < bound, `${name}: ${JSON.stringify(report)}`);
  }
  return report;
});
