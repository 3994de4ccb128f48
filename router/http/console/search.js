// The search view: asks one question and shows what was found, from where, and how long it took.

import { ask } from "./api.js";
import { STAGES, stageBar } from "./charts.js";
import { byId, el, faultBox, tag } from "./dom.js";
import { count, counted, duration, percent, score } from "./format.js";

let underWay = null;

/** Connects the form; `onToken` is called where a token is needed. */
export function startSearch({ onToken }) {
  const form = byId("ask");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search(onToken);
  });
  for (const radio of form.querySelectorAll("input[name=mode]")) {
    radio.addEventListener("change", () => {
      byId("n-probe").disabled = radio.value === "exact" && radio.checked;
    });
  }
  showWelcome();
}

function showWelcome() {
  byId("answer").replaceChildren(
    el("div", { class: "empty" },
      el("h2", {}, "Ask the index a question"),
      el("p", {}, "Its passages come back with their scores, the shard that each lies in, and where the time went.")),
  );
}

function wanted() {
  const form = new FormData(byId("ask"));
  const question = form.get("question").trim();
  const exact = form.get("mode") === "exact";
  // what is there is shown, with its coverage: the console explains, it doesn't refuse
  const body = { question, exact, k: Number(form.get("k")) || 10, min_coverage: 0 };
  if (form.get("index")) body.index = form.get("index");
  if (!exact && Number(form.get("n_probe"))) body.n_probe = Number(form.get("n_probe"));
  return body;
}

async function search(onToken) {
  const body = wanted();
  const status = byId("search-status");
  if (!body.question) {
    status.textContent = "Type a question first.";
    byId("question").focus();
    return;
  }
  underWay?.abort();
  const mine = underWay = new AbortController();
  const box = byId("answer");
  byId("go").disabled = true;
  box.setAttribute("aria-busy", "true");
  status.textContent = "Searching.";
  const waiting = setTimeout(() => box.replaceChildren(skeleton()), 150);
  try {
    const begun = performance.now();
    const answer = await ask("/api/search", { body, signal: mine.signal });
    clearTimeout(waiting);
    box.replaceChildren(drawn(answer, performance.now() - begun));
    status.textContent = `${counted(answer.hits.length, "passage")} in ${duration(answer.total_ms)}, coverage ${percent(answer.coverage)}.`;
  } catch (failure) {
    if (mine.signal.aborted) return;
    clearTimeout(waiting);
    box.replaceChildren(faultBox(failure));
    status.textContent = "";
    if (failure.needsToken) onToken(failure);
  } finally {
    clearTimeout(waiting);
    if (underWay === mine) {
      byId("go").disabled = false;
      box.removeAttribute("aria-busy");
    }
  }
}

function skeleton() {
  return el("div", { class: "skeleton", "aria-hidden": "true" }, el("div"), el("div"), el("div"));
}

function drawn(answer, roundTripMs) {
  return el("div", { class: "answer-columns fresh" }, results(answer), aside(answer, roundTripMs));
}

function results(answer) {
  const head = el("div", { class: "results-head" },
    el("h2", {}, counted(answer.hits.length, "passage")),
    el("span", { class: "muted num" }, `in ${duration(answer.total_ms)}`),
    answer.coverage < 1 ? tag(`${percent(answer.coverage)} of passages searched`, "warn") : null,
    answer.query_truncated ? tag("The question was cut to what the encoder reads", "warn") : null,
    answer.n_probe_wanted ? tag("Fewer lists searched: time was short", "warn") : null);
  if (!answer.hits.length) {
    return el("div", {}, head, el("div", { class: "empty" }, el("h2", {}, "Nothing found"),
      el("p", {}, "No shard that could be searched holds a passage for this.")));
  }
  return el("div", {}, head,
    el("ol", { class: "results" }, answer.hits.map((hit, i) => el("li", {}, passage(hit, i + 1)))));
}

function passage(hit, rank) {
  const text = el("p", { class: "hit-text is-cut" }, hit.text);
  const more = hit.text.length > 420
    ? el("button", { type: "button", class: "more", "aria-expanded": "false", onclick: (event) => {
      const isCut = text.classList.toggle("is-cut");
      event.target.textContent = isCut ? "Show all" : "Show less";
      event.target.setAttribute("aria-expanded", String(!isCut));
    } }, "Show all")
    : null;
  const metadata = Object.entries(hit.metadata)
    .map(([name, value]) => el("span", {}, `${name}: ${value}`));
  return el("article", { class: "card hit" },
    el("div", { class: "hit-head" },
      el("span", { class: "hit-rank", "aria-hidden": "true" }, rank),
      el("h3", {}, hit.title || hit.id),
      el("span", { class: "hit-score", title: "Score: higher is better" }, score(hit.score))),
    text,
    el("div", { class: "hit-foot" },
      tag(`shard ${hit.shard}`, "plain"),
      el("span", {}, hit.is_exact ? "exact score" : "approximate score"),
      el("code", {}, hit.id), metadata, more));
}

function aside(answer, roundTripMs) {
  const outcomes = answer.shards.map((shard) => el("tr", {},
    el("th", { scope: "row" }, `Shard ${shard.shard}`),
    el("td", {}, tag(shard.outcome.toLowerCase().replace("_", " "), shard.outcome === "OK" ? "good" : "bad")),
    el("td", { class: "num" }, shard.outcome === "OK" ? duration(shard.elapsed_ms) : "\u2013")));
  const exact = answer.hits.length > 0 && answer.hits.every((hit) => hit.is_exact) && !answer.n_probe;
  return el("aside", { class: "aside", "aria-label": "How this answer was made" },
    el("section", { class: "card" }, el("h2", {}, "Where the time went"),
      stageBar(answer.stages_ms),
      el("ul", { class: "stage-list" },
        STAGES.map((name) => el("li", {}, el("span", { class: `dot ${name}` }), name,
          el("span", { class: "num" }, duration(answer.stages_ms[name])))),
        el("li", { class: "is-total" }, "in the router", el("span", { class: "num" }, duration(answer.total_ms))),
        el("li", { class: "muted" }, "seen by this page", el("span", { class: "num" }, duration(roundTripMs))))),
    el("section", { class: "card" }, el("h2", {}, "Shards"),
      el("table", {}, el("thead", { class: "unseen" }, el("tr", {},
        ["Shard", "Outcome", "Time"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, outcomes))),
    el("section", { class: "card" }, el("h2", {}, "Settings"),
      el("dl", { class: "facts" },
        fact("Search", exact ? "exact" : "approximate"),
        fact("Index", `${answer.index} version ${answer.version}`),
        fact("Coverage", percent(answer.coverage)),
        answer.n_probe ? fact("Lists searched", count(answer.n_probe)) : null,
        answer.candidates ? fact("Candidates rescored", count(answer.candidates)) : null,
        fact("Score", answer.score_kind.toLowerCase().replaceAll("_", " ")),
        fact("Request", el("code", {}, answer.request_id.slice(0, 12))))));
}

function fact(name, value) {
  return [el("dt", {}, name), el("dd", {}, value)];
}
