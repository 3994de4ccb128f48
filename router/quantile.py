"""A quantile of what was observed lately. Pure: no clocks; time is an argument.

Counts fall into buckets whose edges grow by 2 ** (1/8), 9 % each, over two windows: the one that
is being filled and the one before, so that the last 1 to 2 windows count in constant memory.
"""

import math

_STEPS = 8
_LEAST_S = 1e-5
_N_BUCKETS = 24 * _STEPS
"""10 µs to 168 s."""


class LatencyWindow:
    """Latencies of the last `window_s` to 2 `window_s` seconds."""

    __slots__ = ("_before", "_filling", "_known", "_known_until_s", "_n", "_since_s", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._since_s = -math.inf
        self._filling = [0] * _N_BUCKETS
        self._before = [0] * _N_BUCKETS
        self._n = 0
        self._known: float | None = None
        self._known_until_s = -math.inf

    def observe(self, latency_s: float, now_s: float) -> None:
        """Counts one."""
        self._turn(now_s)
        self._n += 1
        self._filling[_bucket(latency_s)] += 1

    def p95(self, now_s: float, *, at_least: int) -> float | None:
        """What 95 % stayed below, in seconds, at most 9 % too high; None of fewer observations.

        Made anew ten times a window: between, it costs a comparison.
        """
        if now_s >= self._known_until_s:
            self._turn(now_s)
            self._known = self._quantile(0.95) if self._n >= at_least else None
            # few observations: look again at each call, until there are enough
            self._known_until_s = now_s + self._window_s / 10 if self._known else now_s
        return self._known

    def _turn(self, now_s: float) -> None:
        if now_s - self._since_s < self._window_s:
            return
        in_time = now_s - self._since_s < 2 * self._window_s
        self._before = self._filling if in_time else [0] * _N_BUCKETS
        self._filling = [0] * _N_BUCKETS
        self._since_s = now_s
        self._n = sum(self._before)

    def _quantile(self, share: float) -> float:
        wanted = share * self._n
        seen = 0
        for bucket, (new, old) in enumerate(zip(self._filling, self._before, strict=True)):
            seen += new + old
            if seen >= wanted:
                return float(_LEAST_S * 2 ** ((bucket + 1) / _STEPS))
        return math.inf


def _bucket(latency_s: float) -> int:
    if latency_s <= _LEAST_S:
        return 0
    return min(_N_BUCKETS - 1, int(math.log2(latency_s / _LEAST_S) * _STEPS))
