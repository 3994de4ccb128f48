// The calibration view: what recall each setting promises, as measured by `shoal index calibrate`.

import { ask } from "./api.js";
import { recallChart } from "./charts.js";
import { byId, el, faultBox, tag } from "./dom.js";
import { count, percent } from "./format.js";

let shown = "";

/** Draws the curve of the index, once a version. */
export async function showCalibration(index) {
  if (!index) return;
  const now = `${index.name} ${index.version} ${index.n_points}`;
  if (now === shown) return;
  shown = now;
  const box = byId("calibration");
  try {
    const told = await ask(`/api/calibration?index=${encodeURIComponent(index.name)}`);
    box.replaceChildren(...(told.points.length ? drawn(told) : empty(told)));
  } catch (failure) {
    shown = "";
    box.replaceChildren(faultBox(failure));
  }
}

function empty(told) {
  const flat = told.recipe === "Flat";
  return [el("div", { class: "empty" },
    el("h2", {}, flat ? "Every search of this index is exact" : "This index is not calibrated"),
    flat
      ? el("p", {}, "Its recipe is Flat: there is no trade of recall against time to draw.")
      : el("p", {}, "Run ", el("code", {}, "shoal index calibrate"), " to measure recall against exact search, and reload."))];
}

function drawn(told) {
  const ks = [...new Set(told.points.map((point) => point.k))].sort((a, b) => a - b);
  return [
    el("p", { class: "lead" }, `Recall@k against exact search that each setting promises, for index ${told.index} version ${told.version} (${told.recipe}, ${count(told.n_lists)} lists). `,
      "Where nothing is asked for, searches use n_probe ", el("strong", {}, String(told.default_n_probe)), " and rescore ",
      el("strong", {}, `${told.default_oversample} \u00d7 k`), " candidates."),
    ...ks.map((k) => group(k, told)),
  ];
}

function group(k, told) {
  const points = told.points.filter((point) => point.k === k);
  const kinds = [...new Set(points.map((point) => point.oversample))].sort((a, b) => a - b);
  const groups = kinds.map((oversample) => ({
    oversample,
    points: points.filter((point) => point.oversample === oversample)
      .sort((a, b) => a.n_probe - b.n_probe),
  }));
  const isDefault = (point) =>
    point.n_probe === told.default_n_probe && point.oversample === told.default_oversample;
  return el("section", { class: "two" },
    el("div", { class: "card" }, el("h2", {}, `Recall@${k}`),
      el("ul", { class: "legend" }, groups.map((one, i) =>
        el("li", {}, el("span", { class: `dot c${i % 4}` }), label(one.oversample)))),
      recallChart(groups, { defaultProbe: told.default_n_probe })),
    el("div", { class: "card wide" }, el("table", {},
      el("caption", { class: "unseen" }, `Measured settings at k ${k}`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "num" }, "Lists"),
        el("th", { scope: "col" }, "Rescored"), el("th", { scope: "col", class: "num" }, "Recall"))),
      el("tbody", {}, points.map((point) => el("tr", {},
        el("td", { class: "num" }, count(point.n_probe)),
        el("td", {}, label(point.oversample), isDefault(point) ? [" ", tag("default", "plain")] : null),
        el("td", { class: "num" }, percent(point.recall))))))));
}

const label = (oversample) => (oversample ? `${oversample} \u00d7 k` : "none");
