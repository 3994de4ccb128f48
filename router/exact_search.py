"""One answered query once more, by brute force over every shard, beside the lanes.

Rule: nobody waits for it, so it takes no place of those who wait for an answer: it travels in calls
of its own, as bulk, which shards run after everything interactive, asks one replica of each shard
once, and neither retries, hedges nor judges. What of it failed is data. Knows nothing of budgets.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from router.answered import Answered
from router.calls import NO_REPLICA
from router.fanout import Shards
from router.merge import ShardHits, merge_top_k
from router.recall import Ordinals, Recalls, Scores, exact_scores_of, recalls_at
from router.replicas import choose_replica
from router.shard_replica import ShardReplica
from router.shard_reply import InvalidReplyError, SearchSettings, ShardReply
from shoal.errors import UnavailableError
from shoal.v1 import priority_pb2

CALL_S = 0.0005
"""CPU seconds that a call is taken to cost the router and a shard beside the search itself."""
_BEYOND = 32
"""Hits asked for beyond k: passages equal to the k-th, for answers whose scores aren't exact."""


class Exact(NamedTuple):
    """What exact search found, (n,) ordinals and scores, best first, and the CPU seconds it took.

    `failures` are those of the shards that did not answer; with any, what was found is not all.
    """

    ordinals: Ordinals
    scores: Scores
    cpu_s: float
    failures: tuple[BaseException, ...] = ()


async def search_exactly(
    shards: Shards, answered: Answered, timeout_s: float, rng: random.Random
) -> Exact:
    """Every shard's best hits of the query, merged; raises nothing but its cancellation."""
    settings = SearchSettings(
        index=answered.version.name,
        version=answered.version.version,
        k=answered.k + _BEYOND,
        n_probe=0,
        candidates=0,
        exact=True,
        priority=priority_pb2.PRIORITY_BULK,
        fields=frozenset(),
        next_ordinal=answered.version.next_ordinal,
    )

    async def ask(replicas: Sequence[ShardReplica]) -> ShardReply:
        replica = choose_replica(replicas, now_s=time.monotonic(), rng=rng)
        if replica is None:
            raise UnavailableError(NO_REPLICA.detail)
        reply = await replica.search_aside(settings, answered.vector, timeout_s)
        if not reply.is_exact:
            raise InvalidReplyError("approximate scores of an exact search")
        return reply

    begun_s = time.monotonic()
    told = await asyncio.gather(*(ask(replicas) for replicas in shards), return_exceptions=True)
    elapsed_s = time.monotonic() - begun_s
    replies = [reply for reply in told if isinstance(reply, ShardReply)]
    failures = tuple(failure for failure in told if isinstance(failure, BaseException))
    cpu_s = sum(cost_s(reply.search_s, elapsed_s) for reply in replies)
    # a shard that didn't answer may have searched for as long as it was waited for
    cpu_s += len(failures) * cost_s(math.inf, elapsed_s)
    if failures or not replies:
        nothing = np.empty(0, dtype=np.int64)
        return Exact(nothing, nothing.astype(np.float32), cpu_s, failures)
    best = _best([reply.hits for reply in replies], settings.k)
    return Exact(*best, cpu_s)


def cost_s(told_s: float, elapsed_s: float) -> float:
    """What one shard's search cost, in CPU seconds: one query is searched by one thread. Pure.

    Args:
        told_s: how long it searched, by its own word.
        elapsed_s: how long it was waited for, which it can't have exceeded.
    """
    return CALL_S + (min(told_s, elapsed_s) if told_s >= 0 else elapsed_s)  # NaN is not >= 0


def recall_of(answered: Answered, exact: Exact) -> float | None:
    """The share of the best `k` passages that were found; None where the index is empty. Pure."""
    k = min(answered.k, len(exact.ordinals))
    if not k:
        return None
    scores = exact_scores_of(
        answered.ordinals,
        answered.scores,
        is_exact=answered.has_exact_scores,
        exact=(exact.ordinals, exact.scores),
    )
    recalls: Recalls = recalls_at(scores[None], exact.scores[k - 1 : k], k)
    return float(recalls[0])


def _best(parts: Sequence[ShardHits], k: int) -> tuple[Ordinals, Scores]:
    winners = merge_top_k(parts, k)
    there = winners.parts[0] >= 0
    return winners.ordinals[0][there], winners.scores[0][there]
