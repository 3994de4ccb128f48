"""A tally as JSON, from a worker to whoever merges. The one place that knows both forms."""

import dataclasses
from collections import Counter
from typing import Any

from shoal.bench.schedule import Stage
from shoal.bench.tally import KINDS, Recall, Series, Slice, Tally

_PLAIN = (
    "n_sent",
    "n_in_time",
    "coverage_sum",
    "coverage_n",
    "coverage_min",
    "n_other_version",
    "busy",
)
_SERIES = ("late", "sent", "loop_lag")


def tally_to_json(tally: Tally) -> dict[str, Any]:
    """The tally for JSON."""
    return {
        "stage": dataclasses.asdict(tally.stage),
        "latency": {kind: tally.latency[kind].to_json() for kind in KINDS},
        "stages": {name: series.to_json() for name, series in tally.stages.items()},
        "errors": dict(tally.errors),
        "versions": sorted(tally.versions),
        "recall": {request: [r.n, r.total] for request, r in tally.recall.items()},
        "slices": {number: slice_to_json(part) for number, part in tally.slices.items()},
        **{name: getattr(tally, name).to_json() for name in _SERIES},
        **{name: getattr(tally, name) for name in _PLAIN},
    }


def tally_from_json(values: dict[str, Any]) -> Tally:
    """The tally that `tally_to_json` wrote."""
    tally = Tally(Stage(**values["stage"]), ())
    tally.latency = {kind: Series.from_json(values["latency"][kind]) for kind in KINDS}
    tally.stages = {name: Series.from_json(value) for name, value in values["stages"].items()}
    tally.errors = Counter(values["errors"])
    tally.versions = set(values["versions"])
    tally.recall = {
        int(request): Recall(n, total) for request, (n, total) in values["recall"].items()
    }
    tally.slices = {int(number): slice_from_json(v) for number, v in values["slices"].items()}
    for name in _SERIES:
        setattr(tally, name, Series.from_json(values[name]))
    for name in _PLAIN:
        setattr(tally, name, values[name])
    return tally


def slice_to_json(part: Slice) -> list[Any]:
    """A slice for JSON."""
    return [part.latency.to_json(), part.n_failed, part.n_degraded, part.n_answered]


def slice_from_json(value: list[Any]) -> Slice:
    """The slice that `slice_to_json` wrote."""
    series, *counts = value
    return Slice(Series.from_json(series), *counts)
