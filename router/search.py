"""A query's way: encode, fan out, merge, fetch. Values in, values out; no protobuf."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.candidates import shard_candidates
from router.encoding import encode
from router.fanout import FanOut, Replies
from router.merge import NO_HIT, Winners, merge_top_k
from router.outcomes import Outcome, ShardOutcome
from router.query import SearchQuery
from router.registry import Served, ServedIndex
from router.shard_client import PassageColumns, PassageJob, SearchSettings
from shoal.errors import InsufficientCoverageError
from shoal.rpc.deadline import Deadline
from shoal.vectors import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Stages, in seconds; they follow each other."""

    encode_s: float
    search_s: float
    merge_s: float
    fetch_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer: winners by query, and where each one's passage lies.

    `shards` names the shard of each part of `winners`; `places` (n_queries, width) is a hit's place
    in `passages[shard]`.
    """

    winners: Winners
    shards: tuple[int, ...]
    places: npt.NDArray[np.int64]
    passages: Mapping[int, PassageColumns]
    outcomes: Mapping[int, ShardOutcome]
    coverage: float
    is_exact: bool
    truncated: frozenset[int]
    timings: Timings


class Searcher:
    """Runs queries against what is served."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fanout = FanOut(rng)

    async def search(
        self, query: SearchQuery, served: Served, index: ServedIndex, deadline: Deadline
    ) -> Found:
        """Answers a checked query.

        Raises:
            InsufficientCoverageError: fewer passages were searched than the query allows.
            ShoalError: the encoder's failures, as `encode`.
        """
        begun_s = time.perf_counter()
        self._refuse_hopeless(query, index)
        query_vectors, truncated = await encode(query, served.encoders, deadline, self._rng)
        encoded_s = time.perf_counter()
        replies = await self._ask_shards(query, index, query_vectors, deadline)
        searched_s, merge_s = time.perf_counter(), 0.0
        while True:
            _refuse_too_little(query, replies)
            merging_s = time.perf_counter()
            merged = _merge(query, replies)
            merge_s += time.perf_counter() - merging_s
            passages, failed = await self._fetch(query, index, merged, deadline)
            if not failed:
                break
            replies = replies.without(failed)  # its hits have no text now: answer without them
        fetch_s = time.perf_counter() - searched_s - merge_s
        return Found(
            winners=merged.winners,
            shards=merged.shards,
            places=merged.places,
            passages=passages,
            outcomes=replies.outcomes,
            coverage=query.index.coverage(set(replies.by_shard)),
            is_exact=all(reply.is_exact for reply in replies.by_shard.values()),
            truncated=truncated,
            timings=Timings(
                encode_s=encoded_s - begun_s if query.texts else 0.0,
                search_s=searched_s - encoded_s,
                merge_s=merge_s,
                fetch_s=fetch_s,
            ),
        )

    def _refuse_hopeless(self, query: SearchQuery, index: ServedIndex) -> None:
        """Fails before any work where the shards that are there can't be enough."""
        there = {i for i, replicas in enumerate(index.shards) if any(r.usable for r in replicas)}
        if query.index.coverage(there) < query.min_coverage:
            missing = sorted(set(range(len(index.shards))) - there)
            raise _too_little(query, query.index.coverage(there), f"down: shards {missing}")

    async def _ask_shards(
        self, query: SearchQuery, index: ServedIndex, query_vectors: Matrix, deadline: Deadline
    ) -> Replies:
        n_live = query.index.n_live
        settings = [
            _settings(query, candidates=query.candidates and shard_candidates(
                query.candidates, n_live_shard, n_live))
            for n_live_shard in query.index.n_live_by_shard
        ]  # fmt: skip
        return await self._fanout.search(index.shards, settings, query_vectors, deadline)

    async def _fetch(
        self, query: SearchQuery, index: ServedIndex, merged: "_Merged", deadline: Deadline
    ) -> tuple[dict[int, PassageColumns], dict[int, ShardOutcome]]:
        if not merged.jobs:
            return dict(merged.inline), {}
        fetched, failed = await self._fanout.fetch(
            index.shards, _settings(query, candidates=0), merged.jobs, deadline
        )
        return {**merged.inline, **fetched}, failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """Winners, and their passages: those that came along, and those to fetch, by shard."""

    winners: Winners
    shards: tuple[int, ...]
    places: npt.NDArray[np.int64]
    inline: Mapping[int, PassageColumns]
    jobs: Mapping[int, PassageJob]


def _merge(query: SearchQuery, replies: Replies) -> _Merged:
    if not replies.by_shard:
        nothing = np.empty((query.n_queries, 0), dtype=np.int64)
        winners = Winners(
            parts=nothing, columns=nothing, ordinals=nothing, scores=nothing.astype(np.float32)
        )
        return _Merged(winners=winners, shards=(), places=nothing, inline={}, jobs={})
    shards = tuple(sorted(replies.by_shard))
    parts = [replies.by_shard[shard].hits for shard in shards]
    winners = merge_top_k(
        parts, query.k, offset=query.offset, score_threshold=query.score_threshold
    )
    places = np.zeros(winners.parts.shape, dtype=np.int64)
    inline: dict[int, PassageColumns] = {}
    jobs: dict[int, PassageJob] = {}
    for number, (shard, part) in enumerate(zip(shards, parts, strict=True)):
        query_numbers, ranks = np.nonzero(winners.parts == number)
        columns = winners.columns[query_numbers, ranks]
        came_along = replies.by_shard[shard].passages
        if came_along is not None:
            counts = np.count_nonzero(part.ordinals >= 0, axis=1)
            starts = np.cumsum(counts) - counts
            places[query_numbers, ranks] = starts[query_numbers] + columns
            inline[shard] = came_along
        elif len(columns):
            places[query_numbers, ranks] = np.arange(len(columns))
            jobs[shard] = PassageJob(
                segments=part.segments[query_numbers, columns],
                rows=part.rows[query_numbers, columns],
            )
    return _Merged(winners=winners, shards=shards, places=places, inline=inline, jobs=jobs)


def _settings(query: SearchQuery, *, candidates: int) -> SearchSettings:
    return SearchSettings(
        index=query.index.name,
        version=query.index.version,
        k=query.depth,
        n_probe=query.n_probe,
        candidates=candidates,
        exact=query.exact,
        priority=query.priority,
        fields=query.fields,
    )


def _refuse_too_little(query: SearchQuery, replies: Replies) -> None:
    coverage = query.index.coverage(set(replies.by_shard))
    if coverage < query.min_coverage:
        why = ", ".join(
            f"shard {shard} {outcome.outcome.name} ({outcome.detail})"
            for shard, outcome in sorted(replies.outcomes.items())
            if outcome.outcome is not Outcome.OK
        )
        raise _too_little(query, coverage, why)


def _too_little(query: SearchQuery, coverage: float, why: str) -> InsufficientCoverageError:
    return InsufficientCoverageError(
        f"coverage is {coverage:.4g}, below min_coverage {query.min_coverage:.4g}; {why}"
    )


__all__ = ["NO_HIT", "Found", "Searcher", "Timings"]
