// Two small charts of the last hour: events a second by the minute, and how long each turn took.

import { $, duration, number, put, some } from "./dom.mjs";
import { SPAN, median } from "./history.mjs";

const [WIDTH, HEIGHT] = [300, 64];

const path = (id, parts) => $(id).setAttribute("d", parts.join(""));

const few = (value) => (value >= 10 ? number(Math.round(value)) : value.toFixed(1));

/** Draws both. */
export function renderCharts(history, now) {
  const rates = history.rates(now);
  const peak = Math.max(...rates);
  const width = WIDTH / SPAN;
  // By the root: a quiet hour and a burst fit into one picture.
  const bars = rates.map((rate, i) => {
    const height = Math.max(1, Math.sqrt(rate / Math.max(peak, 0.01)) * (HEIGHT - 4));
    return rate > 0 ? `M${(i * width).toFixed(1)} ${HEIGHT}v${(-height).toFixed(1)}h${(width - 1).toFixed(1)}V${HEIGHT}z` : "";
  });
  path("bars", bars);
  const present = history.pace(now);
  put("rate-now", few(present));
  put("rate-note", `busiest minute ${few(peak)}`);

  const turns = history.recent(now);
  const most = Math.max(1000, ...turns.map((turn) => turn.took));
  const [low, high] = [Math.log(100), Math.log(Math.max(most, 200))];
  const place = ({ at, took }) => {
    const x = WIDTH - 4 - ((now - at) / (SPAN * 60000)) * (WIDTH - 8);
    const y = HEIGHT - 5 - (Math.max(0, Math.log(Math.max(took, 100)) - low) / (high - low)) * (HEIGHT - 10);
    return `M${x.toFixed(1)} ${y.toFixed(1)}h0`;
  };
  const good = (turn) => turn.status === "completed";
  const bad = turns.filter((turn) => !good(turn));
  path("dots", turns.filter(good).map(place));
  path("dots-bad", bad.map(place));
  put("turn-now", duration(median(turns.map((turn) => turn.took))));
  put("turn-note", `${some(turns.length, "turn")}${bad.length ? `, ${bad.length} not completed` : ""}`);
}
