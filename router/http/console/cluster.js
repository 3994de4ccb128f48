// The cluster view: shards, replicas and encoders, as the router sees them now.

import { byId, el, tag } from "./dom.js";
import { count, counted, moment, percent } from "./format.js";

const TONES = { healthy: "good", trial: "warn", connecting: "warn", doubted: "warn", down: "bad" };
const WORDS = { trial: "on trial" };
let drawnFrom = "";

/** Draws the topology, unless nothing in it has changed. */
export function showCluster(topology) {
  const now = JSON.stringify([topology.indexes, topology.encoders, topology.learning]);
  if (now === drawnFrom) return;
  drawnFrom = now;
  const indexes = topology.indexes.map(indexSection);
  if (!indexes.length) {
    indexes.push(el("div", { class: "empty" }, el("h2", {}, "No index is served yet"),
      el("p", {}, topology.learning ? "The router still learns who serves what." : "Its topology names none.")));
  }
  byId("cluster").replaceChildren(...indexes, encoders(topology.encoders));
}

function indexSection(index) {
  const facts = index.n_live === undefined
    ? "No replica tells what it is yet."
    : [counted(index.n_live, "passage"), `${index.dim} dimensions`, index.recipe,
      index.encoder_model || "bare vectors", `made ${moment(index.created_at_s)}`].join(" \u00b7 ");
  const there = index.shards.filter((shard) => shard.is_there).length;
  return el("section", { "aria-label": `Index ${index.name}` },
    el("div", { class: "index-head" }, el("h2", {}, index.name),
      tag(`version ${index.version}`, "plain"),
      index.coverage >= 1 ? tag("whole", "good") : tag(`coverage ${percent(index.coverage)}`, "bad")),
    el("p", { class: "index-facts" }, facts),
    index.fault ? el("p", { class: "fault" }, index.fault) : null,
    el("div", { class: "meter", role: "meter", "aria-label": "Coverage", "aria-valuemin": 0,
      "aria-valuemax": 100, "aria-valuenow": Math.floor(index.coverage * 100) },
    el("span", { width_pct: index.coverage * 100 })),
    el("div", { class: "meter-line" },
      el("span", {}, `${percent(index.coverage)} of passages can be searched`),
      el("span", {}, `${there} of ${counted(index.shards.length, "shard")}`)),
    el("ul", { class: "shards" }, index.shards.map((shard) => shardCard(shard, index.version))));
}

function shardCard(shard, version) {
  return el("li", { class: `card shard ${shard.is_there ? "" : "is-down"}`, "data-shard": shard.shard },
    el("div", { class: "shard-head" }, el("h3", {}, `Shard ${shard.shard}`),
      el("span", { class: "muted num" }, shard.n_live === null ? "" : counted(shard.n_live, "passage"))),
    el("ul", { class: "replicas" }, shard.replicas.map((replica) => replicaRow(replica, version))));
}

function replicaRow(replica, version) {
  const versions = replica.versions ?? [];
  const open = versions.length ? `version ${versions.join(", ")}` : "no version open";
  const known = version === undefined ? replica.model : open;
  return el("li", {},
    el("div", { class: "replica-head" }, el("span", {}, replica.name),
      tag(WORDS[replica.state] ?? replica.state, TONES[replica.state] ?? "warn")),
    el("div", { class: "replica-facts num" },
      [known, `${count(replica.in_flight)} in flight`, `${count(replica.waiting)} waiting`]
        .filter(Boolean).join(" \u00b7 ")),
    replica.address ? el("div", { class: "replica-facts mono" }, replica.address) : null,
    replica.detail ? el("div", { class: "replica-facts" }, replica.detail) : null);
}

function encoders(list) {
  return el("section", { "aria-label": "Encoders" }, el("h2", {}, "Encoders"),
    list.length
      ? el("ul", { class: "shards" }, list.map((encoder) =>
        el("li", { class: `card ${encoder.state === "down" ? "shard is-down" : ""}` },
          el("ul", { class: "replicas" }, replicaRow(encoder)))))
      : el("p", { class: "muted" }, "None: this cluster is asked with vectors."));
}
