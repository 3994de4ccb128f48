"""One shard of one version, ready to search: its segments on their device, and their best hits.

Rule: equal scores are settled by ordinal, within a segment and between them. All of it runs on the
one search thread. This module must not know the wire, nor how faiss is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shard_server.devices import Backend
from shard_server.hits import ShardHits, merge, no_hits, stack
from shard_server.limits import MAX_QUERIES, SearchParameters
from shard_server.search_thread import Stopped
from shard_server.segment import CheckFile, SegmentData, read_segment
from shard_server.segment_search import SegmentSearch
from shard_server.slices import Slice, slices_of
from shoal.errors import IndexFormatError
from shoal.formats.manifest import Manifest
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file
from shoal.vectors import Matrix

_EXACT_BATCH = 64
"""Brute-force queries between two looks at the clock; what one call needs to use the cores."""
SLICE_ROWS = 32_768
"""Rows between two looks, where others may pass: some 2 ms of one query at 384 dimensions."""
_WARM_UP_QUERIES = 64
"""What a busy router sends; a GPU's searches of many queries use other kernels than one's."""


class ShardIndex:
    """Segments on their device. Make one with `read`, then `place` it on the search thread."""

    def __init__(
        self,
        manifest: Manifest,
        shard: int,
        passages: Sequence[PassageFile],
        searches: Sequence[SegmentSearch],
        backend: Backend,
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self.passages = tuple(passages)
        """The passages of each segment."""
        self._searches = tuple(searches)
        self._slices: tuple[Slice, ...] | None = None
        self._backend = backend

    @staticmethod
    def read(
        index_dir: Path, manifest: Manifest, shard: int, *, check: CheckFile = check_file
    ) -> tuple[SegmentData, ...]:
        """Check and read a shard's files, whatever the thread; nothing can be searched yet.

        Raises:
            IndexFormatError: naming the file or the number that is wrong.
        """
        if shard >= len(manifest.shards):
            raise IndexFormatError(
                f"shard {shard} is not there: version {manifest.version} of {manifest.name} has "
                f"{len(manifest.shards)} shards, numbered from 0"
            )
        return tuple(
            read_segment(index_dir, manifest, segment, check=check)
            for segment in manifest.shards[shard].segments
        )

    @classmethod
    def place(
        cls, manifest: Manifest, shard: int, segments: Sequence[SegmentData], backend: Backend
    ) -> "ShardIndex":
        """Bring read segments to the device; on the thread that will search them.

        Raises:
            ConfigError, UnavailableError: the device can't take them.
        """
        backend.enter()
        searches = []
        for number, data in enumerate(segments):
            if not data.n_live:
                continue
            placed = None if data.index is None else backend.place(data.index)
            searches.append(
                SegmentSearch(
                    number,
                    replace(data, index=None),  # what a GPU holds need not stay in memory here
                    placed,
                    backend.name,
                    negate=manifest.metric == "l2",
                    has_lists=manifest.n_lists > 0,
                )
            )
        return cls(manifest, shard, [data.passages for data in segments], searches, backend)

    @property
    def device(self) -> str:
        """Where the compressed index lives."""
        return self._backend.name

    def warm_up(self) -> None:
        """Search each way: first calls make tables, load pages and compile kernels.

        One query, and many where the device loads aside: a CPU is warm after one, and the search
        thread serves another version, which brute force over many would hold up for seconds.
        """
        rng = np.random.default_rng(0)  # zeros would all tie, and ties are searched for again
        shape = (_WARM_UP_QUERIES, self.manifest.dim)
        query_vectors = rng.standard_normal(shape, dtype=np.float32)
        n_probe = self.manifest.default_n_probe or min(1, self.manifest.n_lists)
        for n_queries in (1, _WARM_UP_QUERIES) if self._backend.loads_aside else (1,):
            for candidates in (100, 0):
                parameters = SearchParameters(k=10, n_probe=n_probe, candidates=candidates)
                self.search(query_vectors[:n_queries], parameters)

    def close(self) -> None:
        """Let go of the index; on the search thread, which alone may free a GPU's memory."""
        self._backend.enter()
        self._searches, self._slices = (), None
        self.passages = ()

    def search(
        self,
        query_vectors: Matrix,
        parameters: SearchParameters,
        is_wanted: Callable[[], bool] = lambda: True,
        *,
        in_steps: bool = False,
    ) -> ShardHits:
        """The best hits of each query.

        Args:
            query_vectors: float32 (n_queries, dim), checked by `limits`.
            parameters: how to search, checked by `limits`.
            is_wanted: asked between batches; the work ends when it says no.
            in_steps: ask it every few milliseconds of brute force too, for work that others pass.

        Returns:
            Matrices of (n_queries, min(k, the shard's rows)), or narrower by `candidates`.

        Raises:
            Stopped: `is_wanted` said no.
        """
        self._backend.enter()
        assert query_vectors.shape[1] == self.manifest.dim  # faiss would read beyond their end
        query_vectors = np.ascontiguousarray(query_vectors)  # faiss is given the memory itself
        n_queries = len(query_vectors)
        if in_steps and parameters.exact:
            return self._search_in_steps(query_vectors, parameters, is_wanted)
        if n_queries == 1 or n_queries <= (step := self._queries_a_call(parameters)):
            return self._search_batch(query_vectors, parameters)
        parts = []
        for start in range(0, n_queries, step):
            if start and not is_wanted():
                raise Stopped
            batch = query_vectors[start : start + step]
            parts.append(self._search_batch(batch, parameters))
        return stack(parts)

    def _search_in_steps(
        self, query_vectors: Matrix, parameters: SearchParameters, is_wanted: Callable[[], bool]
    ) -> ShardHits:
        if self._slices is None:
            self._slices = tuple(
                part
                for search in self._searches
                for part in slices_of(
                    search.number,
                    search.data,
                    SLICE_ROWS,
                    device=self.device,
                    negate=self.manifest.metric == "l2",
                )
            )
        parts = []
        for start in range(0, len(query_vectors), _EXACT_BATCH):
            batch = query_vectors[start : start + _EXACT_BATCH]
            best = None
            for number, part in enumerate(self._slices):
                if (start or number) and not is_wanted():
                    raise Stopped
                hits = part.search(batch, parameters)
                best = hits if best is None else merge([best, hits], parameters.k)
            parts.append(no_hits(len(batch), exact=True) if best is None else best)
        return stack(parts)

    def _queries_a_call(self, parameters: SearchParameters) -> int:
        if parameters.exact:
            return _EXACT_BATCH
        n_queries = MAX_QUERIES
        for search in self._searches:
            n_queries = min(n_queries, search.queries_a_call(parameters.n_probe))
        return n_queries

    def _search_batch(self, query_vectors: Matrix, parameters: SearchParameters) -> ShardHits:
        if len(self._searches) == 1:
            return self._searches[0].search(query_vectors, parameters)
        parts = [search.search(query_vectors, parameters) for search in self._searches]
        if not parts:
            return no_hits(len(query_vectors), exact=parameters.exact or parameters.candidates > 0)
        return merge(parts, parameters.k)
