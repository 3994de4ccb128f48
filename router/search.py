"""A query's way: encode, fan out, merge, fetch. Values in, values out; no protobuf."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from router.candidates import shard_candidates
from router.config import RouterConfig
from router.effort import CostModel, choose_n_probe
from router.encoding import EncoderCalls, encode
from router.fanout import FanOut, Replies
from router.merge import Winners, merge_top_k
from router.min_coverage import refuse_hopeless, refuse_too_little
from router.outcomes import Outcome, ShardOutcome
from router.passages import PassageColumns, PassageJob
from router.query import SearchQuery
from router.served import Served, ServedIndex
from router.shard_reply import SearchSettings
from shoal.errors import DeadlineExceededError
from shoal.rpc.deadline import Deadline
from shoal.vectors import Matrix


class Timings(NamedTuple):
    """Stages, in seconds; they follow each other."""

    encode_s: float
    search_s: float
    merge_s: float
    fetch_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer: winners by query, and where each one's passage lies.

    `shards` names the shard of each part of `winners`; `places` (n_queries, width) is a hit's place
    in `passages[shard]`. `n_probe` was searched, which may be less than was wanted. `query_vectors`
    are (n_queries, dim), those of the texts as they were encoded.
    """

    query_vectors: Matrix
    winners: Winners
    shards: tuple[int, ...]
    places: npt.NDArray[np.int64]
    passages: Mapping[int, PassageColumns]
    outcomes: Mapping[int, ShardOutcome]
    coverage: float
    is_exact: bool
    truncated: frozenset[int]
    n_probe: int
    timings: Timings


class Searcher:
    """Runs queries against what is served."""

    def __init__(self, rng: random.Random, config: RouterConfig) -> None:
        self._encoders = EncoderCalls(rng, config)
        self._fanout = FanOut(rng, config)
        self._costs: dict[str, CostModel] = {}

    async def search(
        self, query: SearchQuery, served: Served, index: ServedIndex, deadline: Deadline
    ) -> Found:
        """Answers a checked query.

        Raises:
            OverloadedError: shards are full, and without them it is too little.
            InsufficientCoverageError: fewer passages were searched than the query allows, and not
                for want of time alone.
            DeadlineExceededError: there is no time, or shards that were too late are all it lacks.
            ShoalError: the encoder's failures, as `encode`.
        """
        begun_s = time.monotonic()
        if deadline.expired:
            raise DeadlineExceededError("the deadline passed before the search began")
        refuse_hopeless(query, index.there)
        query_vectors, truncated = await encode(query, served.encoders, deadline, self._encoders)
        encoded_s = time.monotonic()
        query = self._within(query, deadline)
        replies = await self._ask_shards(query, index, query_vectors, deadline)
        searched_s, merge_s = time.monotonic(), 0.0
        self._learn(query, replies)
        while True:
            refuse_too_little(query, replies)
            merging_s = time.monotonic()
            merged = _merge(query, replies)
            merge_s += time.monotonic() - merging_s
            failed = await self._fetch(query, index, merged, deadline)
            if not failed:
                break
            replies = replies.without(failed)  # its hits have no text now: answer without them
        fetch_s = time.monotonic() - searched_s - merge_s
        return Found(
            query_vectors=query_vectors,
            winners=merged.winners,
            shards=merged.shards,
            places=merged.places,
            passages=merged.passages,
            outcomes=replies.outcomes,
            coverage=query.index.coverage(replies.by_shard.keys()),
            is_exact=all(reply.is_exact for reply in replies.by_shard.values()),
            truncated=truncated,
            n_probe=query.n_probe,
            timings=Timings(
                encode_s=encoded_s - begun_s if query.texts else 0.0,
                search_s=searched_s - encoded_s,
                merge_s=merge_s,
                fetch_s=fetch_s,
            ),
        )

    def _within(self, query: SearchQuery, deadline: Deadline) -> SearchQuery:
        """The query with as many lists as the time that is left allows."""
        model = self._costs.get(query.index.name)
        if model is None or not query.may_shrink or query.is_bulk:  # it has time to be whole
            return query
        n_probe = choose_n_probe(
            query.n_probe,
            n_queries=query.n_queries,
            time_left_s=deadline.remaining_s(),
            model=model,
        )
        return query if n_probe == query.n_probe else replace(query, n_probe=n_probe)

    def _learn(self, query: SearchQuery, replies: Replies) -> None:
        """Remembers what the slowest shard that answered took; one that didn't says nothing.

        Nor does bulk, which waits behind all: interactive searches would shrink for it.
        """
        if query.is_bulk:
            return
        took_ms = [o.elapsed_ms for o in replies.outcomes.values() if o.outcome is Outcome.OK]
        if took_ms and query.n_probe:
            model = self._costs.get(query.index.name, CostModel())
            units = query.n_queries * query.n_probe
            self._costs[query.index.name] = model.seen(units, max(took_ms) / 1e3)

    async def _ask_shards(
        self, query: SearchQuery, index: ServedIndex, query_vectors: Matrix, deadline: Deadline
    ) -> Replies:
        n_live_by_shard = query.index.n_live_by_shard
        return await self._fanout.search(
            index.best_shards,
            _by_shard(_settings(query), query.candidates, n_live_by_shard),
            query_vectors,
            deadline,
            n_live_by_shard=n_live_by_shard,
            min_coverage=query.min_coverage,
        )

    async def _fetch(
        self, query: SearchQuery, index: ServedIndex, merged: "_Merged", deadline: Deadline
    ) -> dict[int, ShardOutcome]:
        """Gets the winners' passages that didn't come along; the outcomes of shards that failed."""
        if not merged.jobs:
            return {}
        fetched, failed = await self._fanout.fetch(
            index.best_shards, _settings(query), merged.jobs, deadline
        )
        for shard, passages in fetched.items():
            merged.passages[shard] = passages.columns
            merged.places[merged.winners.parts == merged.shards.index(shard)] += passages.start
        return failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """Winners; `passages` that came along, by shard, and the `jobs` that get the others."""

    winners: Winners
    shards: tuple[int, ...]
    places: npt.NDArray[np.int64]
    passages: dict[int, PassageColumns]
    jobs: dict[int, PassageJob]


def _merge(query: SearchQuery, replies: Replies) -> _Merged:
    if not replies.by_shard:
        nothing = np.empty((query.n_queries, 0), dtype=np.int64)
        winners = Winners(
            parts=nothing, columns=nothing, ordinals=nothing, scores=nothing.astype(np.float32)
        )
        return _Merged(winners=winners, shards=(), places=nothing, passages={}, jobs={})
    shards = tuple(sorted(replies.by_shard))
    parts = [replies.by_shard[shard] for shard in shards]
    winners = merge_top_k(
        [part.hits for part in parts],
        query.k,
        offset=query.offset,
        score_threshold=query.score_threshold,
    )
    # places among the hits that came along with each part; a filler's is never looked at
    first_hits = np.array([part.first_hits for part in parts])
    places = winners.columns + first_hits[winners.parts, np.arange(query.n_queries)[:, None]]
    passages: dict[int, PassageColumns] = {}
    jobs: dict[int, PassageJob] = {}
    for number, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        if part.passages is not None:
            passages[shard] = part.passages
            continue
        query_numbers, ranks = np.nonzero(winners.parts == number)
        if len(ranks):
            columns = winners.columns[query_numbers, ranks]
            places[query_numbers, ranks] = np.arange(len(columns))
            jobs[shard] = PassageJob(
                segments=part.hits.segments[query_numbers, columns],
                rows=part.hits.rows[query_numbers, columns],
            )
    return _Merged(winners=winners, shards=shards, places=places, passages=passages, jobs=jobs)


def _settings(query: SearchQuery) -> SearchSettings:
    """What its calls agree in; the number of candidates is each shard's own."""
    return SearchSettings(
        index=query.index.name,
        version=query.index.version,
        k=query.depth,
        n_probe=query.n_probe,
        candidates=0,
        exact=query.exact,
        priority=query.priority,
        fields=query.fields,
        next_ordinal=query.index.next_ordinal,
    )


@lru_cache(maxsize=1_024)
def _by_shard(
    settings: SearchSettings, candidates: int, n_live_by_shard: tuple[int, ...]
) -> tuple[SearchSettings, ...]:
    """The settings for each shard, with its share of the candidates (0: no rescoring).

    Kept, for most searches have the settings of another; lanes compare one object with itself.
    """
    if not candidates:
        return (settings,) * len(n_live_by_shard)
    n_live = sum(n_live_by_shard)
    return tuple(
        replace(settings, candidates=shard_candidates(candidates, n_live_shard, n_live))
        for n_live_shard in n_live_by_shard
    )
