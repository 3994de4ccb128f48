"""The same questions through the index's own engine, from its codes alone to what the cluster does.

Rule: each search differs from the one before in one thing. Positions are places by ordinal, from 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy.calibration.measure import search_batch
from deploy.evaluation.exact import score_rows
from router.merge import NO_HIT, Winners
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shoal.vectors import Matrix

Ranked = list[npt.NDArray[np.int64]]
"""For each query the positions found, best first."""

_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the cluster searched; `candidates` 0 is without rescoring, over all shards."""

    k: int
    n_probe: int
    candidates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """All shards of a version, and its stored vectors (n, dim) by ordinal; `ordinals` ascend."""

    shards: tuple[ShardIndex, ...]
    stored: npt.NDArray[np.float16]
    ordinals: npt.NDArray[np.int64]

    def by_codes(self, query_vectors: Matrix, k: int, n_probe: int) -> Ranked:
        """The codes' own ranking, nothing rescored."""
        return self._search(query_vectors, SearchParameters(k=k, n_probe=n_probe))

    def rescored(self, query_vectors: Matrix, settings: Settings) -> Ranked:
        """The best candidates of the whole index by their codes, in the order of exact scores:
        what one shard with everything would answer.
        """
        proposed = self.by_codes(query_vectors, settings.candidates, settings.n_probe)
        metric = self.shards[0].manifest.metric
        ranked: Ranked = []
        for query_vector, candidates in zip(query_vectors, proposed, strict=True):
            positions = np.sort(candidates)
            scores = score_rows(query_vector, self.stored[positions], metric)
            ranked.append(positions[np.argsort(-scores, kind="stable")][: settings.k])
        return ranked

    def in_shares(
        self, query_vectors: Matrix, settings: Settings, answering: Sequence[int] | None = None
    ) -> Ranked:
        """As the cluster: each shard rescores its likely share; `answering` shards alone."""
        parameters = SearchParameters(
            k=settings.k, n_probe=settings.n_probe, candidates=settings.candidates
        )
        return self._search(query_vectors, parameters, answering)

    def exactly(self, query_vectors: Matrix, k: int, answering: Sequence[int]) -> Ranked:
        """Every stored vector of the shards that answered."""
        return self._search(query_vectors, SearchParameters(k=k, exact=True), answering)

    def _search(
        self,
        query_vectors: Matrix,
        parameters: SearchParameters,
        answering: Sequence[int] | None = None,
    ) -> Ranked:
        if answering is not None and not answering:
            return [np.empty(0, dtype=np.int64) for _ in query_vectors]
        ranked: Ranked = []
        for start in range(0, len(query_vectors), _BATCH):
            batch = np.ascontiguousarray(query_vectors[start : start + _BATCH])
            winners = search_batch(self.shards, batch, parameters, answering=answering)
            ranked += self._positions(winners)
        return ranked

    def _positions(self, winners: Winners) -> Ranked:
        return [
            np.searchsorted(self.ordinals, ordinals[parts != NO_HIT])
            for ordinals, parts in zip(winners.ordinals, winners.parts, strict=True)
        ]
