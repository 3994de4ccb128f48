// Two small charts as SVG: where a search's time went, and recall by lists searched. Pure drawing.

import { svg } from "./dom.js";
import { duration, percent } from "./format.js";

export const STAGES = ["queue", "encode", "search", "merge", "fetch"];

/** One bar, divided by stage; `stages` are milliseconds by name. */
export function stageBar(stages, height = 16) {
  const width = 320;
  const total = STAGES.reduce((sum, name) => sum + (stages[name] ?? 0), 0) || 1;
  const label = STAGES.map((name) => `${name} ${duration(stages[name] ?? 0)}`).join(", ");
  let x = 0;
  const bars = STAGES.map((name) => {
    const share = ((stages[name] ?? 0) / total) * width;
    const bar = svg("rect", { x, y: 0, width: Math.max(0, share - 1), height, class: `fill ${name}` });
    x += share;
    return bar;
  });
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "stages", role: "img", "aria-label": label,
      preserveAspectRatio: "none" },
    bars,
  );
}

/** Points of one k as lines of (n_probe, recall), one an oversample; the index's own is marked. */
export function recallChart(groups, { defaultProbe, width = 680, height = 340 }) {
  const box = { left: 62, right: 20, top: 14, bottom: 50 };
  const all = groups.flatMap((group) => group.points);
  const probes = all.map((point) => point.n_probe);
  const least = Math.min(...probes);
  const most = Math.max(...probes, least + 1);
  const low = Math.floor(Math.min(0.9, ...all.map((point) => point.recall)) * 10) / 10;
  const log = (value) => Math.log2(Math.max(1, value));
  const x = (value) =>
    box.left + ((log(value) - log(least)) / Math.max(1e-9, log(most) - log(least))) *
      (width - box.left - box.right);
  const y = (value) =>
    height - box.bottom - ((value - low) / Math.max(1e-9, 1 - low)) * (height - box.top - box.bottom);
  const step = 1 - low > 0.55 ? 0.2 : 1 - low > 0.15 ? 0.1 : 0.02;
  const rows = Array.from({ length: Math.floor((1 - low) / step + 1.001) }, (_, i) => 1 - i * step);
  const ticks = [...new Set(probes)].sort((a, b) => a - b)
    .filter((value, i, kept) => i === 0 || x(value) - x(kept[i - 1]) > 26 || i === kept.length - 1);
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img",
      "aria-label": "Recall against exact search by lists searched; the table holds the same figures" },
    rows.map((value) => [
      svg("line", { x1: box.left, x2: width - box.right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" },
        `${Math.round(value * 100)} %`),
    ]),
    ticks.map((value) =>
      svg("text", { x: x(value), y: height - box.bottom + 20, "text-anchor": "middle" }, String(value))),
    svg("line", { x1: box.left, x2: width - box.right, y1: height - box.bottom,
      y2: height - box.bottom, class: "axis" }),
    svg("text", { x: (box.left + width - box.right) / 2, y: height - 8, "text-anchor": "middle" },
      "lists searched (n_probe)"),
    defaultProbe >= least && defaultProbe <= most
      ? [
        svg("line", { x1: x(defaultProbe), x2: x(defaultProbe), y1: box.top, y2: height - box.bottom,
          class: "default" }),
        svg("text", { x: x(defaultProbe) + 6, y: height - box.bottom - 8 }, `default ${defaultProbe}`),
      ]
      : null,
    groups.map((group, number) => [
      svg("polyline", { class: `path c${number % 4}`,
        points: group.points.map((point) => `${x(point.n_probe)},${y(point.recall)}`).join(" ") }),
      group.points.map((point) =>
        svg("circle", { class: `c${number % 4}`, cx: x(point.n_probe), cy: y(point.recall), r: 4 },
          svg("title", {}, `n_probe ${point.n_probe}: ${percent(point.recall)}`))),
    ]),
  );
}
