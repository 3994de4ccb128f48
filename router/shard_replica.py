"""One shard server as the router sees it: a connection, its two lanes, its health, its versions.

Knows nothing of queries; `fanout` decides who is asked.
"""

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

from router.cluster import Replica, Shared
from router.lane import Lane
from router.passages import Fetched, PassageJob
from router.quantile import LatencyWindow
from router.shard_client import ShardClient
from router.shard_reply import InvalidReplyError, SearchSettings, ShardReply
from router.topology import IndexVersion
from router.waiting import LATENCY_WINDOW_S
from shoal.errors import (
    InvalidArgumentError,
    ShoalError,
    UnavailableError,
    UnsupportedError,
)
from shoal.rpc import metrics
from shoal.tracing.spans import Span
from shoal.vectors import Matrix

logger = logging.getLogger(__name__)

_PROBES_TIMEOUT_S = 2.0

Reply = TypeVar("Reply")

ShardDescription = tuple[int, dict[int, IndexVersion]]


class ShardReplica(Replica[ShardDescription]):
    """One shard server and the two lanes before it: searches and passages."""

    _component = "shard"

    def __init__(self, address: str, index: str, shard: int, shared: Shared) -> None:
        self.index = index
        self.shard = shard
        self._probes = shared.probes
        self._asked_for_probes: set[str] = set()
        self._shard_client = ShardClient(
            address,
            inline_hits=shared.config.inline_hits,
            credentials=shared.config.peer_credentials,
        )
        super().__init__(self._shard_client, shared)
        self.latencies = LatencyWindow(LATENCY_WINDOW_S)
        """Of the interactive searches that it answered first."""
        batch_size = metrics.BATCH_SIZE.labels("router_shard")
        self.searches: Lane[tuple[SearchSettings, Matrix], ShardReply] = Lane(
            self._search,
            tasks=shared.tasks,
            max_cost=shared.config.max_batch_cost,
            on_batch=batch_size.observe,
            n_active=shared.n_active,
        )
        self.passages: Lane[tuple[SearchSettings, PassageJob], Fetched] = Lane(
            self._get_passages,
            tasks=shared.tasks,
            max_cost=shared.config.max_batch_cost,
            on_batch=metrics.BATCH_SIZE.labels("router_passages").observe,
            n_active=shared.n_active,
        )
        self._invalid = metrics.INVALID_REPLIES.labels(str(shard))
        self._count = {
            code: metrics.SHARD_REQUESTS.labels(str(shard), code) for code in metrics.SHARD_CODES
        }

    async def close(self) -> None:
        """As every replica; what waits in its lanes ends too."""
        self.searches.close()
        self.passages.close()
        await super().close()

    def _fault(self, description: ShardDescription) -> str:
        shard, versions = description
        names = {version.name for version in versions.values()}
        if not versions:
            return "has no version open"
        if shard != self.shard or names != {self.index}:
            told = ", ".join(sorted(names))
            return f"serves shard {shard} of {told}, not shard {self.shard} of {self.index}"
        return ""

    async def _prove(self, description: ShardDescription) -> str:
        """Never finds a fault; learns the probes of towers that the router has none of yet."""
        towers = {version.question_fingerprint for version in description[1].values()} - {""}
        missing = {tower for tower in towers if self._probes.get(tower) is None}
        if missing - self._asked_for_probes:
            try:
                for contract in await self._shard_client.contracts(_PROBES_TIMEOUT_S):
                    self._probes.learn(contract)
            except UnavailableError:
                raise
            except (InvalidArgumentError, UnsupportedError) as failure:
                # a shard of the release before knows no such question
                logger.info("%s tells no probes: %s", self.address, failure.message)
            except ShoalError as failure:  # busy, or so: it is asked again with the next check
                logger.info("%s tells no probes yet: %s", self.address, failure.message)
                return ""
            self._asked_for_probes |= missing
        return ""

    @property
    def load(self) -> int:
        """Queries queued or under way."""
        return self.searches.load

    @property
    def versions(self) -> dict[int, IndexVersion]:
        """What it has open, as far as known."""
        return self.health.description[1] if self.health.description else {}

    async def search_aside(
        self, settings: SearchSettings, query_vectors: Matrix, timeout_s: float
    ) -> ShardReply:
        """Searches beside the lane, for nobody who waits: neither counted nor judged.

        Raises ShoalError.
        """
        return (await self._shard_client.search(settings, [query_vectors], timeout_s))[0]

    async def open_versions(self, timeout_s: float) -> frozenset[int]:
        """What it has open now, asked. Raises ShoalError."""
        _, versions = await self._shard_client.describe(timeout_s)
        return frozenset(versions)

    async def load_version(self, version: int, timeout_s: float) -> IndexVersion:
        """Has it open a version beside those that are open; what it is. Raises ShoalError."""
        told = await self._shard_client.load_version(self.index, version, timeout_s)
        self._know({**self.versions, version: told})
        return told

    async def release_version(self, version: int, timeout_s: float) -> None:
        """Has it close a version after its last search. Raises ShoalError."""
        await self._shard_client.release_version(self.index, version, timeout_s)
        self._know({number: v for number, v in self.versions.items() if number != version})

    def _know(self, versions: dict[int, IndexVersion]) -> None:
        self._see(replace(self.health, description=(self.shard, versions)))

    async def _search(
        self,
        jobs: Sequence[tuple[SearchSettings, Matrix]],
        timeout_s: float,
        spans: Sequence[Span],
    ) -> Sequence[ShardReply]:
        settings = jobs[0][0]
        matrices = [matrix for _, matrix in jobs]
        return await self._counted(self._shard_client.search(settings, matrices, timeout_s, spans))

    async def _get_passages(
        self,
        jobs: Sequence[tuple[SearchSettings, PassageJob]],
        timeout_s: float,
        spans: Sequence[Span],
    ) -> Sequence[Fetched]:
        settings = jobs[0][0]
        places = [job for _, job in jobs]
        return await self._counted(self._shard_client.passages(settings, places, timeout_s, spans))

    async def _counted(self, call: Awaitable[Sequence[Reply]]) -> Sequence[Reply]:
        try:
            replies = await call
        except ShoalError as failure:
            self._count["FAILED"].inc()
            if isinstance(failure, InvalidReplyError):
                self._invalid.inc()
                logger.warning("%s gave an invalid reply: %s", self.address, failure.message)
            self.note(failure)
            raise
        self.heard()
        self._count["OK"].inc()
        return replies
