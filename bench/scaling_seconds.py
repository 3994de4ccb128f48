"""A run of `bench.scaling` second by second. Pure: knows neither clusters nor how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shoal.bench.drive import OK, Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """One second: what was offered in it, and how the calls that were due in it ended."""

    at_s: int
    offered: int
    encoders: int
    p50_ms: float
    p99_ms: float
    failed: int


def seconds_of(calls: Sequence[Call], counts: Mapping[int, int]) -> list[Second]:
    """The calls by the second in which they were due; `counts` are the encoders, where counted."""
    by_second: dict[int, list[Call]] = {}
    for call in calls:
        by_second.setdefault(int(call.due_s), []).append(call)
    encoders = 1
    seconds = []
    for at_s in range(max(by_second, default=-1) + 1):
        encoders = counts.get(at_s, encoders)
        due = by_second.get(at_s, [])
        ms = [1e3 * (call.done_s - call.due_s) for call in due] or [0.0]
        seconds.append(
            Second(
                at_s=at_s,
                offered=len(due),
                encoders=encoders,
                p50_ms=float(np.quantile(ms, 0.5)),
                p99_ms=float(np.quantile(ms, 0.99, method="higher")),
                failed=sum(call.reply.code != OK or call.reply.degraded for call in due),
            )
        )
    return seconds
