// Starts the page: views by the address's hash, the cluster's state every second, theme and token.

import { ask, token } from "./api.js";
import { showCalibration } from "./calibration.js";
import { showCluster } from "./cluster.js";
import { byId, el } from "./dom.js";
import { count, counted, percent, rate } from "./format.js";
import { startSearch } from "./search.js";
import { showSlow } from "./slow.js";

const EVERY_MS = 1000;
const VIEWS = ["search", "cluster", "calibration", "slow"];
let topology = null;
let before = null;
let heardAt = 0;
let timer = 0;

function currentView() {
  const wanted = location.hash.slice(1);
  return VIEWS.includes(wanted) ? wanted : "search";
}

function showView({ focus }) {
  const view = currentView();
  for (const name of VIEWS) byId(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`view-${view}`).dataset.title} \u00b7 Shoal`;
  if (focus) (view === "search" ? byId("question") : byId("main")).focus({ preventScroll: true });
  drawView();
}

function drawView() {
  if (!topology) return;
  const view = currentView();
  if (view === "cluster") showCluster(topology);
  if (view === "calibration") showCalibration(chosenIndex());
  if (view === "slow") showSlow();
}

function chosenIndex() {
  const name = byId("index").value;
  return topology.indexes.find((index) => index.name === name) ?? topology.indexes[0];
}

async function poll() {
  clearTimeout(timer);
  try {
    const told = await ask("/api/topology", { timeoutMs: 3000 });
    before = topology;
    topology = told;
    heardAt = Date.now();
    showIndexes();
    showStrip();
    showNotice();
    drawView();
  } catch (failure) {
    notice(failure.needsToken ? "" : `${failure.title}. ${failure.message}`, true);
    if (failure.needsToken) askForToken(failure);
  }
  byId("heard").textContent = heardAt
    ? `heard from the router at ${new Date(heardAt).toLocaleTimeString()}` : "";
  // a page that nobody sees asks nothing
  if (!document.hidden && !byId("token-dialog").open) timer = setTimeout(poll, EVERY_MS);
}

function showIndexes() {
  const select = byId("index");
  const names = topology.indexes.map((index) => index.name);
  if ([...select.options].map((option) => option.value).join() === names.join()) return;
  const kept = select.value;
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(kept)) select.value = kept;
  byId("index-pick").hidden = names.length < 2;
}

function showStrip() {
  const index = chosenIndex();
  set("strip-index", index ? `${index.name} version ${index.version}` : "none");
  set("strip-passages", index?.n_live === undefined ? "unknown" : count(index.n_live));
  set("strip-coverage", index ? percent(index.coverage) : "\u2013");
  const seconds = before ? topology.at_s - before.at_s : 0;
  const done = before ? topology.load.n_queries - before.load.n_queries : 0;
  set("strip-load", seconds > 0.2 && done >= 0 ? rate(done / seconds) : "\u2026");
  set("strip-flight", counted(topology.load.in_flight, "query", "queries"));
  set("release", `Shoal ${topology.release}`);
}

function set(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

/** What somebody should read, whatever view is open. */
function showNotice() {
  const lost = topology.indexes.flatMap((index) => {
    const gone = index.shards.filter((shard) => !shard.is_there).map((shard) => shard.shard);
    if (!gone.length) return [];
    const which = gone.length === 1 ? `Shard ${gone[0]} is down` : `Shards ${gone.join(", ")} are down`;
    return [`${which}: ${percent(index.coverage)} of the passages of ${index.name} can be searched.`];
  });
  const deaf = topology.encoders.length && !topology.encoders.some((one) => ["healthy", "trial"].includes(one.state));
  if (deaf) lost.push("No encoder answers: text can't be searched, vectors can.");
  notice(lost.join(" "), lost.length > 0);
}

function notice(text, isBad) {
  const box = byId("notice");
  if (box.textContent !== text) box.textContent = text;
  box.hidden = !text;
  box.classList.toggle("is-bad", Boolean(isBad));
}

function askForToken(failure) {
  const dialog = byId("token-dialog");
  byId("token-open").hidden = false;
  const fault = byId("token-fault");
  fault.hidden = !failure || !token.get();
  fault.textContent = failure?.message ?? "";
  if (failure) token.forget(); // it was refused: shown again, it would be refused again
  if (!dialog.open) dialog.showModal();
}

function startToken() {
  byId("token-open").addEventListener("click", () => askForToken(null));
  byId("token-form").addEventListener("submit", () => {
    const given = byId("token").value.trim();
    byId("token").value = "";
    if (given) token.set(given);
  });
  byId("token-forget").addEventListener("click", () => {
    token.forget();
    location.reload();
  });
  byId("token-dialog").addEventListener("close", () => {
    if (token.get() || topology) poll();
    else notice("This cluster asks for a token: give one under Token, above.", true);
  });
  if (token.get()) byId("token-open").hidden = false;
}

function startTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    byId("theme").setAttribute("aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
    byId("theme-icon").textContent = isDark() ? "\u2600" : "\u263e";
  };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("shoal-theme", root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function startKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (currentView() !== "search") location.hash = "search";
    byId("question").focus();
  });
}

startTheme();
startToken();
startKeys();
startSearch({ onToken: askForToken });
addEventListener("hashchange", () => showView({ focus: true }));
document.addEventListener("visibilitychange", () => document.hidden || poll());
byId("index").addEventListener("change", drawView);
showView({ focus: false });
if (currentView() === "search") byId("question").focus();
poll();
