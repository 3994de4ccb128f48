"""How many candidates each shard rescores. Pure.

Of the best C passages of the whole index, the number that lies in a shard holding the share p of
the passages is binomial(C, p) where partition is by hash. A shard is asked for the smallest c that
is exceeded with a probability of at most 1e-4, so that four shards don't rescore four times as much
as one (the idea is Vespa's `top-k-probability`).
"""

import math
from functools import lru_cache

MISS_PROBABILITY = 1e-4
MAX_CANDIDATES = 2_048
MIN_CANDIDATES = 100


def wanted_candidates(k: int, oversample: float) -> int:
    """Candidates over the whole cluster: max(100, k x oversample), at most 2,048; 0 for 0."""
    if oversample == 0:
        return 0
    return min(MAX_CANDIDATES, max(MIN_CANDIDATES, math.ceil(k * oversample)))


@lru_cache(maxsize=4096)
def shard_candidates(n_candidates: int, n_live_shard: int, n_live: int) -> int:
    """This shard's share of `n_candidates`, at least 1 and at most what it holds.

    Args:
        n_candidates: candidates over the whole cluster, 1 to 2,048.
        n_live_shard: live passages in this shard.
        n_live: live passages in all shards.
    """
    if n_live_shard >= n_live or n_candidates >= n_live:
        return max(1, min(n_candidates, n_live_shard))
    if not n_live_shard:
        return 1
    count = _binomial_quantile(n_candidates, n_live_shard / n_live)
    return max(1, min(count, n_candidates, n_live_shard))


def _binomial_quantile(n: int, p: float) -> int:
    """The smallest c with P(binomial(n, p) > c) <= MISS_PROBABILITY."""
    log_p, log_q = math.log(p), math.log1p(-p)
    tail = 0.0
    for count in range(n, 0, -1):
        choose = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
        tail += math.exp(choose + count * log_p + (n - count) * log_q)
        if tail > MISS_PROBABILITY:
            return count
    return 0
