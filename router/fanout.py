"""Asks every shard for its best hits, and the winners' shards for their passages.

Who is asked, who again, and for how long is `round`'s decision; what doesn't answer is an outcome.
Keeps what one round teaches the next: the replicas' latencies, and the budgets of extra calls.
"""

import asyncio
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.batching import search_cost
from router.calls import Budgets, Kind, Plan
from router.carrier import Carrier
from router.config import RouterConfig
from router.outcomes import Outcome, ShardOutcome
from router.passages import Fetched, PassageJob
from router.round import Round
from router.shard_replica import ShardReplica
from router.shard_reply import SearchSettings, ShardReply
from router.traces import FAN_OUT, FETCH, stage_of
from router.waiting import Goal, Patience, patience
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline
from shoal.tracing.spans import Span
from shoal.v1 import priority_pb2
from shoal.vectors import Matrix

_RETRIES = metrics.RETRIES.labels("shard")

_LEARN_EVERY_S = 0.05
"""How long what is known of the shards' latencies is kept: it changes over seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """What came back, by shard number: replies of those that answered, outcomes of all."""

    by_shard: Mapping[int, ShardReply]
    outcomes: Mapping[int, ShardOutcome]

    def without(self, failed: Mapping[int, ShardOutcome]) -> "Replies":
        """The same without shards that were lost since."""
        kept = {shard: reply for shard, reply in self.by_shard.items() if shard not in failed}
        return Replies(by_shard=kept, outcomes={**self.outcomes, **failed})


Shards = Sequence[Sequence[ShardReplica]]
"""Replicas by shard number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """How long to wait for each of these shards."""

    shards: Shards = ()
    until_s: float = -math.inf
    by_shard: Mapping[int, Patience] = field(default_factory=dict)


class FanOut:
    """Search and passage calls to the shards of an index."""

    def __init__(self, rng: random.Random, config: RouterConfig) -> None:
        self._rng = rng
        self._config = config
        self._budgets = Budgets.of(config)
        self._known = _Known()

    async def search(
        self,
        shards: Shards,
        settings: Sequence[SearchSettings],
        query_vectors: Matrix,
        deadline: Deadline,
        *,
        n_live_by_shard: tuple[int, ...],
        min_coverage: float,
    ) -> Replies:
        """Asks each shard, with its own settings, for the hits of (n, dim) vectors.

        The last ones are waited for a while once coverage `min_coverage` is reached, and nobody
        where it can't be: whether it was is the caller's to see.
        """
        # all but their candidates is the same for all shards
        n_queries, dim = query_vectors.shape
        cost = search_cost(n_queries, n_probe=settings[0].n_probe, k=settings[0].k, dim=dim)
        is_bulk = settings[0].priority == priority_pb2.PRIORITY_BULK

        def ask(
            replica: ShardReplica, shard: int, span: Span | None
        ) -> "asyncio.Future[ShardReply]":
            return replica.searches.submit(
                (settings[shard], query_vectors),
                key=settings[shard],
                cost=cost,
                n_items=n_queries,
                is_bulk=is_bulk,
                deadline=deadline,
                span=span,
            )

        now_s = time.monotonic()
        plan = Plan(
            shards=dict(enumerate(shards)),
            until_s=now_s + _patience_s(deadline, share=0.1, at_most_s=0.05),
            patience={} if is_bulk else self._patience(shards, now_s),
            goal=Goal(
                min_coverage=min_coverage,
                n_live_by_shard=n_live_by_shard,
                min_wait_factor=self._config.min_wait_factor,
                max_wait_factor=self._config.max_wait_factor,
            ),
        )
        round_ = Round(plan, self._budgets, self._rng)
        carrier = Carrier(round_, ask, on_extra=_count_extra, stage=stage_of(FAN_OUT))
        await carrier.run()
        if not is_bulk:
            _learn(round_, carrier.latencies_s)
        outcomes = dict(round_.given_up)
        _count_losses(outcomes)
        for shard, reply in carrier.replies.items():
            elapsed_ms = (reply.arrived_s - now_s) * 1_000
            outcomes[shard] = ShardOutcome(outcome=Outcome.OK, elapsed_ms=elapsed_ms)
        return Replies(by_shard=carrier.replies, outcomes=outcomes)

    def _patience(self, shards: Shards, now_s: float) -> Mapping[int, Patience]:
        known = self._known
        if known.shards is not shards or now_s >= known.until_s:
            by_shard = {
                shard: patience([replica.latencies for replica in replicas], now_s)
                for shard, replicas in enumerate(shards)
            }
            known = _Known(shards=shards, until_s=now_s + _LEARN_EVERY_S, by_shard=by_shard)
            self._known = known
        return known.by_shard

    async def fetch(
        self,
        shards: Shards,
        settings: SearchSettings,
        jobs: Mapping[int, PassageJob],
        deadline: Deadline,
    ) -> tuple[dict[int, Fetched], dict[int, ShardOutcome]]:
        """Passages by shard number, and the outcomes of the shards that didn't give theirs."""

        def ask(replica: ShardReplica, shard: int, span: Span | None) -> "asyncio.Future[Fetched]":
            job = jobs[shard]
            return replica.passages.submit(
                (settings, job),
                key=(settings.index, settings.version, settings.fields),
                cost=len(job.rows),
                n_items=len(job.rows),
                is_bulk=settings.priority == priority_pb2.PRIORITY_BULK,
                deadline=deadline,
                span=span,
            )

        # a search that waited for a late shard leaves little time: half of it is for the answer
        patience_s = _patience_s(deadline, share=0.5, at_most_s=0.025)
        plan = Plan(
            shards={shard: shards[shard] for shard in jobs},
            until_s=time.monotonic() + patience_s,
        )
        round_ = Round(plan, self._budgets, self._rng)
        carrier = Carrier(round_, ask, on_extra=_count_extra, stage=stage_of(FETCH))
        await carrier.run()
        _count_losses(round_.given_up)
        return carrier.replies, round_.given_up


def _learn(round_: Round[ShardReplica], latencies_s: Mapping[int, float]) -> None:
    now_s = time.monotonic()
    for shard, latency_s in latencies_s.items():
        round_.answered[shard].replica.latencies.observe(latency_s, now_s)


def _count_losses(given_up: Mapping[int, ShardOutcome]) -> None:
    for shard, told in given_up.items():
        metrics.SHARD_LOSSES.labels(str(shard), told.outcome.name).inc()


def _count_extra(kind: Kind) -> None:
    if kind is Kind.HEDGE:
        metrics.HEDGES.inc()
    else:
        _RETRIES.inc()


def _patience_s(deadline: Deadline, *, share: float, at_most_s: float) -> float:
    """How long to wait for shards, so that a partial answer still goes out in time."""
    remaining_s = deadline.remaining_s()
    return remaining_s - min(at_most_s, remaining_s * share)
