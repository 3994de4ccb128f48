"""What docs/metrics.md lists, and what the programs define."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import grpc
from prometheus_client.metrics import MetricWrapperBase

from router.http.app import COUNTED_CALLS
from router.live_recall import Reason
from router.outcomes import Outcome
from router.standing import Cause, State
from router.standing_gauges import StandingGauges
from shoal.internal.v1 import admin_pb2, shard_pb2
from shoal.rpc import metrics
from shoal.rpc.gpu_memory import GpuMemoryGauges
from shoal.v1 import encoder_pb2, search_pb2

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "metrics.md"
PROGRAMS = {"r": "router", "s": "shard_server", "e": "encoder_service"}

_SUFFIX = {"counter": "_total", "info": "_info"}
_ROW = re.compile(r"^\| (_?)`(\w+)`_? \| (\w+) \| (.*?) \| ([rse, ]+) \| (.*) \|$", re.MULTILINE)
_FOREIGN = {
    "up": set(),
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "process_start_time_seconds": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
}
"""Prometheus' own, and what prometheus-client tells of any process on Linux."""


def closed_sets() -> dict[str, frozenset[str]]:
    """By label, each value that it can have; labels that are not here name what is served."""
    files = (search_pb2, encoder_pb2, shard_pb2, admin_pb2)
    rpcs = {
        method.name
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    return {
        "program": frozenset(metrics.PROGRAMS),
        "component": frozenset(metrics.COMPONENTS),
        "stage": frozenset(metrics.STAGES),
        "priority": frozenset(metrics.PRIORITIES),
        "coverage": frozenset(metrics.COVERAGES),
        "result": frozenset(metrics.CACHE_RESULTS),
        "rpc": frozenset(rpcs) | COUNTED_CALLS | {"refused"},
        "code": frozenset(code.name for code in grpc.StatusCode) | frozenset(metrics.SHARD_CODES),
        "reason": frozenset(get_args(Reason)),
        "cause": frozenset(cause.value for cause in Cause),
        "state": frozenset(state.value for state in State),
        "outcome": frozenset(outcome.name for outcome in Outcome),
    }


OPEN = {"index", "shard", "device", "release", "python"}
"""Labels whose values are what is served and where: known to the operator, never to the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row: its name as it stands on a page, but for a histogram's `_bucket`, `_sum`, `_count`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    programs: frozenset[str] = frozenset()
    is_rare: bool = False

    @property
    def samples(self) -> dict[str, set[str]]:
        """The names of its samples, and the labels of each."""
        if self.kind != "histogram":
            return {self.name: set(self.labels)}
        ends = {"_bucket": {"le"}, "_sum": set(), "_count": set()}
        return {self.name + end: {*self.labels, *more} for end, more in ends.items()}


def listed() -> dict[str, Metric]:
    """The rows of the page, by name."""
    return {
        name: Metric(
            name=name,
            kind=kind,
            labels=tuple(re.findall(r"`(\w+)`", labels)),
            meaning=meaning,
            programs=frozenset(PROGRAMS[p] for p in programs.replace(",", " ").split()),
            is_rare=bool(italic),
        )
        for italic, name, kind, labels, programs, meaning in _ROW.findall(PAGE.read_text())
    }


def defined() -> dict[str, Metric]:
    """What the programs define, by name."""
    wrapped = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    gauges: Iterable[Any] = (
        *StandingGauges(lambda: None).describe(), *GpuMemoryGauges(lambda _: None).describe()
    )  # fmt: skip
    of_wrapped = [(next(iter(w.describe())), w._labelnames) for w in wrapped]
    found = [*of_wrapped, *((family, family._labelnames) for family in gauges)]
    # an info's labels are its values
    info = ("program", "release", "python")
    return {
        family.name + _SUFFIX.get(family.type, ""): Metric(
            name=family.name + _SUFFIX.get(family.type, ""),
            kind=family.type,
            labels=info if family.type == "info" else tuple(labels),
            meaning=family.documentation,
        )
        for family, labels in found
    }


def samples_of(table: Iterable[Metric]) -> dict[str, set[str]]:
    """All names that can stand on a page, and the labels of each."""
    known = dict(_FOREIGN)
    for metric in table:
        known |= metric.samples
    return known
