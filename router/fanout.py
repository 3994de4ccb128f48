"""Asks every shard for its best hits, and the winners' shards for their passages.

A shard is asked through the least loaded of its healthy replicas, and through another one where
that fails; what doesn't answer in time is an outcome. Decides nothing about coverage.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.batching import search_cost
from router.cluster import ShardReplica
from router.outcomes import Outcome, ShardOutcome, another_may_help, outcome_of
from router.passages import Fetched, PassageJob
from router.replicas import choose_replica
from router.shard_client import (
    SearchSettings,
    ShardReply,
)
from shoal.rpc.deadline import Deadline
from shoal.v1 import priority_pb2
from shoal.vectors import Matrix

_NO_REPLICA = ShardOutcome(outcome=Outcome.DOWN, detail="no replica can be reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """What came back, by shard number: replies of those that answered, outcomes of all."""

    by_shard: Mapping[int, ShardReply]
    outcomes: Mapping[int, ShardOutcome]

    def without(self, failed: Mapping[int, ShardOutcome]) -> "Replies":
        """The same without shards that were lost since."""
        kept = {shard: reply for shard, reply in self.by_shard.items() if shard not in failed}
        return Replies(by_shard=kept, outcomes={**self.outcomes, **failed})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    shard: int
    tried: list[ShardReplica]


Shards = Sequence[Sequence[ShardReplica]]
"""Replicas by shard number."""

Reply = TypeVar("Reply")
Ask = Callable[[ShardReplica, int], asyncio.Future[Reply]]
"""Puts the question for a shard into a replica's lane."""


class FanOut:
    """Search and passage calls to the shards of an index."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def search(
        self,
        shards: Shards,
        settings: Sequence[SearchSettings],
        query_vectors: Matrix,
        deadline: Deadline,
    ) -> Replies:
        """Asks each shard, with its own settings, for the hits of (n, dim) vectors."""

        def ask(replica: ShardReplica, shard: int) -> "asyncio.Future[ShardReply]":
            wanted = settings[shard]
            return replica.searches.submit(
                (wanted, query_vectors),
                key=wanted,
                cost=search_cost(
                    len(query_vectors),
                    n_probe=wanted.n_probe,
                    k=wanted.k,
                    dim=query_vectors.shape[1],
                ),
                n_items=len(query_vectors),
                is_bulk=wanted.priority == priority_pb2.PRIORITY_BULK,
                deadline=deadline,
            )

        begun_s = time.perf_counter()
        asked = dict(enumerate(shards))
        patience_s = _patience_s(deadline, share=0.1, at_most_s=0.05)
        replies, failed = await _Round(ask, self._rng, patience_s).run(asked)
        answered = {
            shard: ShardOutcome(outcome=Outcome.OK, elapsed_ms=(reply.arrived_s - begun_s) * 1_000)
            for shard, reply in replies.items()
        }
        return Replies(by_shard=replies, outcomes={**failed, **answered})

    async def fetch(
        self,
        shards: Shards,
        settings: SearchSettings,
        jobs: Mapping[int, PassageJob],
        deadline: Deadline,
    ) -> tuple[dict[int, Fetched], dict[int, ShardOutcome]]:
        """Passages by shard number, and the outcomes of the shards that didn't give theirs."""

        def ask(replica: ShardReplica, shard: int) -> "asyncio.Future[Fetched]":
            job = jobs[shard]
            return replica.passages.submit(
                (settings, job),
                key=(settings.index, settings.version, settings.fields),
                cost=len(job.rows),
                n_items=len(job.rows),
                is_bulk=settings.priority == priority_pb2.PRIORITY_BULK,
                deadline=deadline,
            )

        asked = {shard: shards[shard] for shard in jobs}
        # a search that waited for a late shard leaves little time: half of it is for the answer
        patience_s = _patience_s(deadline, share=0.5, at_most_s=0.025)
        return await _Round(ask, self._rng, patience_s).run(asked)


class _Round(Generic[Reply]):
    """One question to several shards, each through its replicas in turn."""

    def __init__(self, ask: Ask[Reply], rng: random.Random, patience_s: float) -> None:
        self._ask = ask
        self._rng = rng
        # a point in time, not a period: a reply must not buy the others more of it
        self._until = Deadline.after(patience_s)
        self._under_way: dict[asyncio.Future[Reply], _Attempt] = {}
        self._failed: dict[int, ShardOutcome] = {}

    async def run(
        self, shards: Mapping[int, Sequence[ShardReplica]]
    ) -> tuple[dict[int, Reply], dict[int, ShardOutcome]]:
        replies: dict[int, Reply] = {}
        for shard, replicas in shards.items():
            self._start(shard, replicas, tried=[], otherwise=_NO_REPLICA)
        try:
            while self._under_way:
                done, _ = await asyncio.wait(
                    self._under_way,
                    timeout=self._until.remaining_s(),
                    return_when=asyncio.FIRST_EXCEPTION,
                )
                if not done:
                    break
                for answer in done:
                    attempt = self._under_way.pop(answer)
                    failure = answer.exception()
                    if failure is None:
                        replies[attempt.shard] = answer.result()
                    elif another_may_help(failure):
                        self._start(
                            attempt.shard,
                            shards[attempt.shard],
                            tried=attempt.tried,
                            otherwise=outcome_of(failure),
                        )
                    else:
                        self._failed[attempt.shard] = outcome_of(failure)
        finally:
            for answer, attempt in self._under_way.items():
                answer.cancel()
                self._failed[attempt.shard] = ShardOutcome(
                    outcome=Outcome.LATE, detail="no answer by the deadline"
                )
        return replies, self._failed

    def _start(
        self,
        shard: int,
        replicas: Sequence[ShardReplica],
        *,
        tried: list[ShardReplica],
        otherwise: ShardOutcome,
    ) -> None:
        replica = choose_replica(replicas, tried, rng=self._rng)
        if replica is None:
            self._failed[shard] = otherwise
            return
        answer = self._ask(replica, shard)
        self._under_way[answer] = _Attempt(shard=shard, tried=[*tried, replica])


def _patience_s(deadline: Deadline, *, share: float, at_most_s: float) -> float:
    """How long to wait for shards, so that a partial answer still goes out in time."""
    remaining_s = deadline.remaining_s()
    return remaining_s - min(at_most_s, remaining_s * share)
