"""What the console shows of the cluster, as JSON values. Reads what is served; asks nobody.

Rule: addresses and the details of faults are the inside of a cluster, which `inside` alone shows.
"""

import time
from collections.abc import Mapping
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from router.encoder_replica import EncoderReplica
from router.http.asking import score_kind_name
from router.served import Served, ServedIndex
from router.shard_replica import ShardReplica
from router.slow_queries import STAGES, SlowQuery
from router.standing import State
from router.topology import IndexVersion
from shoal import __version__
from shoal.rpc import metrics

_STATES: Mapping[State, str] = {
    State.CONNECTING: "connecting",
    State.HEALTHY: "healthy",
    State.TRIAL: "trial",
    State.DOUBTED: "doubted",
    State.EJECTED: "down",
}


def topology(served: Served, n_in_flight: int, *, inside: bool) -> dict[str, Any]:
    """Who serves what, as this router sees it now, and its load.

    `load.n_queries` and `load.n_refused` count since the start; `at_s` is a clock to take rates by.
    """
    return {
        "release": __version__,
        "at_s": time.monotonic(),
        "learning": bool(served.learning),
        "indexes": [_index(served.indexes[name], inside=inside) for name in sorted(served.indexes)],
        "encoders": [
            _encoder(encoder, number, inside=inside)
            for number, encoder in enumerate(served.encoders)
        ],
        "load": {
            "n_queries": _total(metrics.QUERIES),
            "n_refused": sum(map(_total, metrics.refused_by("router"))),
            "in_flight": n_in_flight,
            "waiting": served.n_waiting,
        },
    }


def calibration(known: IndexVersion) -> dict[str, Any]:
    """The measured points of a version, by k and then cheapest first, and its own settings."""
    return {
        "index": known.name,
        "version": known.version,
        "recipe": known.recipe,
        "n_lists": known.n_lists,
        "default_n_probe": known.default_n_probe,
        "default_oversample": known.default_oversample,
        "points": [
            {"k": p.k, "n_probe": p.n_probe, "oversample": p.oversample, "recall": p.recall}
            for p in known.operating_points
        ],
    }


def slow_query(query: SlowQuery, *, inside: bool) -> dict[str, Any]:
    """One slow search; what was asked is for who may see inside."""
    return {
        "at_s": query.at_s,
        "took_ms": query.took_ms,
        "code": query.code,
        "index": query.index,
        "question": query.question if inside else None,
        "n_queries": query.n_queries,
        "k": query.k,
        "is_exact": query.is_exact,
        "coverage": query.coverage,
        "n_probe": query.n_probe,
        "stages_ms": dict(zip(STAGES, query.stages_ms, strict=False)),
        "request_id": query.request_id,
    }


def _index(index: ServedIndex, *, inside: bool) -> dict[str, Any]:
    known = index.described
    told: dict[str, Any] = {
        "name": index.name,
        "version": index.version,
        "coverage": index.coverage(),
        "fault": index.disagreement if inside else "",
        "shards": [
            {
                "shard": shard,
                "n_live": known.n_live_by_shard[shard] if known else None,
                "is_there": shard in index.there,
                "replicas": [
                    _replica(replica, shard, number, inside=inside)
                    for number, replica in enumerate(replicas)
                ],
            }
            for shard, replicas in enumerate(index.shards)
        ],
    }
    if known is not None:
        told |= {
            "n_live": known.n_live,
            "dim": known.dim,
            "recipe": known.recipe,
            "score_kind": score_kind_name(known.score_kind),
            "encoder_model": known.encoder_model,
            "takes_text": bool(known.question_fingerprint),
            "n_lists": known.n_lists,
            "default_n_probe": known.default_n_probe,
            "created_at_s": known.created_at_ns / 1e9,
            "n_points": len(known.operating_points),
        }
    return told


def _replica(replica: ShardReplica, shard: int, number: int, *, inside: bool) -> dict[str, Any]:
    return {
        "name": f"{shard}{_letter(number)}",
        "state": _STATES[replica.health.state],
        "versions": sorted(replica.versions),
        "in_flight": replica.searches.in_flight + replica.passages.in_flight,
        "waiting": replica.searches.n_waiting,
        "address": replica.address if inside else "",
        "detail": replica.health.detail if inside else "",
    }


def _encoder(encoder: EncoderReplica, number: int, *, inside: bool) -> dict[str, Any]:
    contract = encoder.health.description
    return {
        "name": f"encoder {_letter(number)}",
        "state": _STATES[encoder.health.state],
        "model": contract.model if contract else "",
        "in_flight": encoder.lane.in_flight,
        "waiting": encoder.lane.n_waiting,
        "address": encoder.address if inside else "",
        "detail": encoder.health.detail if inside else "",
    }


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"-{number}"


def _total(counter: MetricWrapperBase) -> float:
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))
