"""Times that can be compared on a machine with neighbours: calls in turn, and their medians.

Pure but for the clock.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from shoal.vectors import Matrix

Search = Callable[[Matrix], object]

_LEAST_ROUNDS = 5


def medians_s(
    searches: Sequence[Search], queries: Matrix, *, batch: int, seconds: float
) -> tuple[float, ...]:
    """Each search's median seconds for `batch` queries.

    All are given the same queries, one search after the other and in a turning order, so that a
    neighbour's load, a clock's step and a warm cache meet all of them alike.

    Args:
        searches: what to time.
        queries: float32 (n, dim), of which a new batch is taken each round.
        batch: queries a call.
        seconds: how long all of it may take; at least five rounds are made.
    """
    times: list[list[float]] = [[] for _ in searches]
    begun_s = time.perf_counter()
    n_rounds = 0
    while n_rounds < _LEAST_ROUNDS or time.perf_counter() - begun_s < seconds:
        start = n_rounds * batch % max(1, len(queries) - batch + 1)
        asked = np.ascontiguousarray(queries[start : start + batch])
        for turn in range(len(searches)):
            number = (n_rounds + turn) % len(searches)
            started_s = time.perf_counter()
            searches[number](asked)
            times[number].append(time.perf_counter() - started_s)
        n_rounds += 1
    return tuple(statistics.median(found) for found in times)
