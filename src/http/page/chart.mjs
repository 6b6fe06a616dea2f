// Two small charts of the last hour: events a second by the minute, and how long each turn took.

import { $, duration, number, put, some } from "./dom.mjs";
import { SPAN, median } from "./history.mjs";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 64];

/** `d` of a path in the chart with that id; made once. */
function path(svg, name, d) {
  let node = svg.querySelector(`.${name}`);
  if (!node) {
    node = svg.appendChild(document.createElementNS(SVG, "path"));
    node.setAttribute("class", name);
  }
  if (node.getAttribute("d") !== d) node.setAttribute("d", d);
}

const few = (value) => (value >= 10 ? number(Math.round(value)) : value.toFixed(1));

/** Draws both. */
export function renderCharts(history, now) {
  const rates = history.rates(now);
  const peak = Math.max(...rates);
  const svg = $("rate-chart");
  const width = WIDTH / SPAN;
  // By the root: a quiet hour and a burst fit into one picture.
  const bars = rates.map((rate, i) => {
    const height = rate > 0 ? Math.max(1, Math.sqrt(rate / Math.max(peak, 0.01)) * (HEIGHT - 4)) : 0;
    return height ? `M${(i * width).toFixed(1)} ${HEIGHT}v${(-height).toFixed(1)}h${(width - 1).toFixed(1)}V${HEIGHT}z` : "";
  });
  path(svg, "bars", bars.join(""));
  const present = history.pace(now);
  put("rate-now", few(present));
  put("rate-note", `busiest minute ${few(peak)}`);

  const turns = history.recent(now);
  const dots = $("turn-chart");
  const most = Math.max(1000, ...turns.map((turn) => turn.took));
  const [low, high] = [Math.log(100), Math.log(Math.max(most, 200))];
  const place = ({ at, took }) => {
    const x = WIDTH - 4 - ((now - at) / (SPAN * 60000)) * (WIDTH - 8);
    const y = HEIGHT - 5 - (Math.max(0, Math.log(Math.max(took, 100)) - low) / (high - low)) * (HEIGHT - 10);
    return `M${x.toFixed(1)} ${y.toFixed(1)}h0`;
  };
  const good = (turn) => turn.status === "completed";
  path(dots, "dots", turns.filter(good).map(place).join(""));
  path(dots, "dots-bad", turns.filter((turn) => !good(turn)).map(place).join(""));
  put("turn-now", duration(median(turns.map((turn) => turn.took))));
  const failed = turns.filter((turn) => !good(turn)).length;
  put("turn-note", `${some(turns.length, "turn")}${failed ? `, ${failed} not completed` : ""}`);
}
