// The view of recent slow searches.

import { ask } from "./api.js";
import { stageBar } from "./charts.js";
import { byId, el, faultBox, tag } from "./dom.js";
import { ago, count, counted, duration, percent } from "./format.js";

/** Asks for them and draws them. */
export async function showSlow() {
  const box = byId("slow");
  try {
    const told = await ask("/api/slow");
    box.replaceChildren(...drawn(told));
  } catch (failure) {
    box.replaceChildren(faultBox(failure));
  }
}

function drawn(told) {
  if (!told.queries.length) {
    return [el("div", { class: "empty" }, el("h2", {}, "No searches yet"),
      el("p", {}, "The slowest of the last minutes appear here as soon as somebody asks."))];
  }
  return [
    told.shows_questions ? null
      : el("p", { class: "muted" }, "What was asked is shown to tokens with the scope admin."),
    el("ul", { class: "slow-list" }, told.queries.map(row)),
  ].filter(Boolean);
}

function row(query) {
  const now = Date.now() / 1000;
  const facts = [
    ago(Math.max(0, now - query.at_s - query.took_ms / 1000)), `index ${query.index || "?"}`,
    query.n_queries > 1 ? counted(query.n_queries, "query", "queries") : null,
    query.k ? `k ${count(query.k)}` : null,
    query.is_exact ? "exact" : query.n_probe ? `n_probe ${count(query.n_probe)}` : null,
    query.coverage === null ? null : `coverage ${percent(query.coverage)}`,
    query.request_id ? `request ${query.request_id.slice(0, 12)}` : null,
  ];
  return el("li", { class: "card slow-row" },
    el("div", { class: "slow-took" }, duration(query.took_ms)),
    el("div", {}, el("div", { class: "slow-question" }, question(query)),
      el("div", { class: "slow-facts num" }, facts.filter(Boolean).join(" \u00b7 "))),
    el("div", {}, query.code === "OK"
      ? stageBar(query.stages_ms, 12)
      : tag(query.code.toLowerCase().replaceAll("_", " "), "bad")));
}

function question(query) {
  if (query.question) return query.question;
  return el("span", { class: "muted" }, query.question === null ? "question not shown" : "a vector");
}
