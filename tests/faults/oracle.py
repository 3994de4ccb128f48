"""What an answer must be: an in-process merge of the same shards, for any subset of them.

Checks I1 (scores bit for bit, ids wherever scores differ), I2 (coverage exact) and I6 (one version)
of every answer that it is shown. Shares the shards' search with the cluster, and nothing of the
router.
"""

import functools
from collections.abc import Sequence

import numpy as np
from faults.index import MiniIndex

from router.candidates import shard_candidates
from shard_server.devices import CpuBackend
from shard_server.hits import merge
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shoal.v1 import search_pb2 as pb


class Oracle:
    """Answers `query_vectors`, float32 (n, dim), by number."""

    def __init__(self, index: MiniIndex, query_vectors: np.ndarray) -> None:
        self._index = index
        self.query_vectors = query_vectors

    @functools.cache  # noqa: B019 -- one oracle a session
    def _shard(self, version: int, shard: int) -> ShardIndex:
        manifest = self._index.manifests[version]
        segments = ShardIndex.read(self._index.folder, manifest, shard)
        return ShardIndex.place(manifest, shard, segments, CpuBackend())

    @functools.cache  # noqa: B019
    def _hits(self, version: int, shard: int, n_probe: int, candidates: int, k: int):
        manifest = self._index.manifests[version]
        share = candidates and shard_candidates(
            candidates, manifest.shards[shard].n_live, manifest.n_live
        )
        parameters = SearchParameters(k=k, n_probe=n_probe, candidates=share, exact=not n_probe)
        return self._shard(version, shard).search(self.query_vectors, parameters)

    @functools.cache  # noqa: B019
    def _best(self, version: int, shards: tuple[int, ...], n_probe: int, candidates: int, k: int):
        found = merge([self._hits(version, s, n_probe, candidates, k) for s in shards], k)
        return found.ordinals, found.scores

    def fault(self, response: pb.SearchResponse, numbers: Sequence[int], k: int) -> str:
        """What is wrong with an OK answer to the queries of these numbers; empty where nothing."""
        manifest = self._index.manifests.get(response.version)
        if manifest is None:
            return f"version {response.version} does not exist"
        covered = tuple(s.shard for s in response.shards if s.outcome == pb.OUTCOME_OK)
        n_covered = sum(manifest.shards[shard].n_live for shard in covered)
        if response.coverage != n_covered / manifest.n_live:
            return f"coverage {response.coverage} for shards {covered}"
        if len(response.results) != len(numbers):
            return f"{len(response.results)} results for {len(numbers)} queries"
        for number, result in zip(numbers, response.results, strict=True):
            if why := self._fault_of(response, result, number, covered, k):
                return f"query {number}, shards {covered}: {why}"
        return ""

    def _fault_of(
        self, response: pb.SearchResponse, result: pb.QueryResult, number: int,
        covered: tuple[int, ...], k: int,
    ) -> str:  # fmt: skip
        if not covered:
            return "hits of no shard" if result.hits else ""
        ordinals, scores = self._best(
            response.version, covered, response.n_probe, response.candidates, k
        )
        wanted, best = scores[number], ordinals[number].tolist()
        told = np.array([hit.score for hit in result.hits], dtype=np.float32)
        if told.tobytes() != wanted.tobytes():
            return f"scores {told} instead of {wanted}"
        for place, hit in enumerate(result.hits):
            tied = np.count_nonzero(wanted == wanted[place]) > 1
            if hit.passage.id != f"p{hit.ordinal}" or (hit.ordinal != best[place] and not tied):
                return f"hit {place} is {hit.ordinal} ({hit.passage.id}), not {best[place]}"
        return ""
