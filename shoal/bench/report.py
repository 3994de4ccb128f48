"""A run's calls as figures. Pure, but for the histogram that it borrows."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hdrh.histogram import HdrHistogram

from shoal.bench.drive import OK, Call

_HIGHEST_US = 3_600_000_000
_SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of a class of calls; all 0 where there were none."""

    n: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a run showed, its warm-up left out.

    `latency_ms` is of all calls, from the moment each was due; `ok_ms`, `degraded_ms` and
    `error_ms` are its parts: full answers, answers with shards missing, and failures (counted by
    status code in `errors`). `calls_per_s` and `queries_per_s` count the answers, degraded ones
    too, that came within the measured time. `late_ms` is how long after its due time a call was
    sent: where it is not small, the generator was the limit.
    """

    loop: str
    rate: float | None
    clients: int | None
    batch: int
    connections: int
    duration_s: float
    n_calls: int
    calls_per_s: float
    queries_per_s: float
    errors: dict[str, int]
    latency_ms: Latency
    ok_ms: Latency
    degraded_ms: Latency
    error_ms: Latency
    late_ms: Latency

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LoadReport":
        """The report that `to_dict` made."""
        parts: dict[str, Any] = {
            name: Latency(**value) if name.endswith("_ms") else value
            for name, value in values.items()
        }
        return cls(**parts)


def summarize(
    calls: Sequence[Call],
    *,
    warmup_s: float,
    duration_s: float,
    rate: float | None,
    clients: int | None,
    batch: int,
    connections: int,
) -> LoadReport:
    """The figures of the calls that were due within `duration_s` after the warm-up."""
    end_s = warmup_s + duration_s
    measured = [call for call in calls if warmup_s <= call.due_s < end_s]
    answered = [call for call in measured if call.reply.code == OK]
    failed = [call for call in measured if call.reply.code != OK]
    # by the time of the answer, not of the sending: what is still under way at the end of the
    # warm-up makes up for what is under way at the end of the run
    in_time = sum(call.reply.code == OK and warmup_s <= call.done_s < end_s for call in calls)
    return LoadReport(
        loop="closed" if rate is None else "open",
        rate=rate,
        clients=clients,
        batch=batch,
        connections=connections,
        duration_s=duration_s,
        n_calls=len(measured),
        calls_per_s=in_time / duration_s,
        queries_per_s=in_time * batch / duration_s,
        errors=dict(Counter(call.reply.code for call in failed)),
        latency_ms=_latency([call.done_s - call.due_s for call in measured]),
        ok_ms=_latency([c.done_s - c.due_s for c in answered if not c.reply.degraded]),
        degraded_ms=_latency([c.done_s - c.due_s for c in answered if c.reply.degraded]),
        error_ms=_latency([call.done_s - call.due_s for call in failed]),
        late_ms=_latency([call.sent_s - call.due_s for call in measured]),
    )


def _latency(seconds: Sequence[float]) -> Latency:
    if not seconds:
        return Latency()
    longest_ms = max(seconds) * 1000
    histogram = HdrHistogram(1, _HIGHEST_US, _SIGNIFICANT_DIGITS)
    for value in seconds:
        histogram.record_value(min(_HIGHEST_US, max(1, round(value * 1e6))))

    def at(percentile: float) -> float:
        # a bucket's upper end may lie above all that was measured
        return min(float(histogram.get_value_at_percentile(percentile)) / 1000, longest_ms)

    return Latency(
        n=len(seconds),
        mean=sum(seconds) / len(seconds) * 1000,
        p50=at(50),
        p90=at(90),
        p95=at(95),
        p99=at(99),
        p999=at(99.9),
        max=longest_ms,
    )
