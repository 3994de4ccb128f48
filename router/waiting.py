"""How long to wait for a shard. Pure: times are arguments."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from router.quantile import LatencyWindow

LATENCY_WINDOW_S = 10.0
_AT_LEAST = 20
"""Answers of a replica from which its p95 means something: of fewer it is the longest."""
_LEAST_HEDGE_S = 0.002
_LATE_FACTOR = 4.0
_LATE_FLOOR_S = 0.1
_LOST_UNKNOWN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds after which a second replica is asked, and after which the first counts as late.

    `lost_after_s` is for a call that ends without an answer: had it that long, it is the replica's
    fault. Where nobody knows what a call takes no answer is late: a search of many queries or a
    long question says nothing against who answers it.
    """

    hedge_after_s: float = math.inf
    late_after_s: float = math.inf
    lost_after_s: float = _LOST_UNKNOWN_S


UNKNOWN = Patience()


def patience(replicas: Iterable[LatencyWindow], now_s: float) -> Patience:
    """What its replicas' latest answers teach of a shard: hedge after the least p95, late is 4
    times that. The least, because a replica that is slow from the first call on must not be its
    own measure; a shard that is slow in all its replicas is.

    (Dean and Barroso, "The Tail at Scale", 2013, defer the second request to the 95th percentile,
    which bounds the extra load to some 5 %.)
    """
    p95_s = math.inf
    for window in replicas:
        p95_s = min(p95_s, window.p95(now_s, at_least=_AT_LEAST) or math.inf)
    if p95_s == math.inf:
        return UNKNOWN
    late_after_s = max(_LATE_FLOOR_S, _LATE_FACTOR * p95_s)
    return Patience(
        hedge_after_s=max(_LEAST_HEDGE_S, p95_s),
        late_after_s=late_after_s,
        lost_after_s=late_after_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The coverage that an answer must have, and how long to wait for more.

    `n_live_by_shard` counts the passages; the factors are shares of the time that is left when the
    coverage is reached.
    """

    min_coverage: float
    n_live_by_shard: tuple[int, ...]
    min_wait_factor: float = 0.05
    max_wait_factor: float = 0.5

    def reached_by(self, n_live: int) -> bool:
        """Whether shards with this many live passages together are enough."""
        total = sum(self.n_live_by_shard)
        return (n_live / total if total else 1.0) >= self.min_coverage

    def wait_factor(self, *, n_asked: int, n_pending: int) -> float:
        """The share of the time left for which to wait once the coverage is reached.

        With m = (1 - min_coverage) x n_asked - 1, the shards that may be missing but one:
        min + (max - min) x (n_pending - 1) / m, or min where m is not above 0: the fewer are
        missing, the less they are waited for. This is Vespa's adaptive timeout: the factors are of
        https://docs.vespa.ai/en/reference/services-content.html#coverage, the slope is its
        dispatcher's. Shards here may be of unequal size, so the slope is cut at 1.
        """
        may_miss = (1.0 - self.min_coverage) * n_asked - 1.0
        if n_pending <= 1 or may_miss <= 0.0:
            return self.min_wait_factor
        slope = min(1.0, (n_pending - 1) / may_miss)
        return self.min_wait_factor + (self.max_wait_factor - self.min_wait_factor) * slope
