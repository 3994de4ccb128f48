"""One shard of one version, ready to search: candidates from the codes, scores from the vectors.

Rule: equal scores are settled by ordinal, also at the k-th place, so more than k are asked of faiss
and the rest is cut. All of it runs on the one search thread. This module must not know the wire.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.devices import Backend, PlacedIndex
from shard_server.hits import (
    NO_SCORE,
    Ordinals,
    Scores,
    ShardHits,
    in_order,
    merge,
    no_hits,
    stack,
    undecided,
)
from shard_server.limits import MAX_FETCH, MAX_QUERIES, SearchParameters
from shard_server.rotation import Rotation, take_apart
from shard_server.search_thread import Stopped
from shard_server.segment import (
    CheckFile,
    SegmentData,
    limit_deserialization,
    read_segment,
)
from shoal.errors import ConfigError, IndexFormatError
from shoal.formats.manifest import Manifest
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file
from shoal.vectors import Matrix

Rows = npt.NDArray[np.int64]

# faiss's stubs leave out the keywords that its Python layer gives to every parameter class
_ivf_parameters: Any = faiss.SearchParametersIVF
_transform_parameters: Any = faiss.SearchParametersPreTransform
_refine_parameters: Any = faiss.IndexRefineSearchParameters
_bitmap_selector: Any = faiss.IDSelectorBitmap
_flat_parameters: Any = faiss.SearchParameters

_TIE_MARGIN = 8
"""Hits asked for beyond k. Of fast-scan's searches for 10, 6-10 % have a tie at the edge; a tie
that reaches through the margin is asked for again, wider."""
_EXACT_BATCH = 64
"""Brute-force queries between two looks at the clock; what one call needs to use the cores."""


@dataclass(frozen=True, slots=True)
class _SearchSegment:
    """`refine` rescores what `placed` proposes; `codes` is `placed` without its `rotation`."""

    data: SegmentData
    placed: PlacedIndex | None
    refine: Any
    live: Any
    """faiss's selector of the rows that are live; None where all are."""
    codes: Any = None
    rotation: Rotation | None = None


class ShardIndex:
    """Segments on their device. Make one with `read`, then `place` it on the search thread."""

    def __init__(
        self, manifest: Manifest, shard: int, segments: Sequence[_SearchSegment], backend: Backend
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self._segments = tuple(segments)
        self._backend = backend
        self._negate = manifest.metric == "l2"

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
        limit_deserialization(manifest)
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
        ready = []
        for data in segments:
            placed = refine = codes = rotation = None
            if data.index is not None and data.n_live:
                placed = backend.place(data.index)
                refine = faiss.IndexRefine(placed.index, data.vectors)
                transform, codes = take_apart(placed.index)
                rotation = None if transform is None else Rotation.of(transform)
            # what the device holds now need not stay in the host's memory
            freed = replace(data, index=None)
            live = select_live(data.deleted, backend.name)
            ready.append(_SearchSegment(freed, placed, refine, live, codes, rotation))
        return cls(manifest, shard, ready, backend)

    @property
    def device(self) -> str:
        """Where the compressed index lives."""
        return self._backend.name

    @property
    def passages(self) -> tuple[PassageFile, ...]:
        """The passages of each segment."""
        return tuple(segment.data.passages for segment in self._segments)

    def warm_up(self) -> None:
        """Search once each way: first calls make tables, load pages and start threads."""
        query_vectors = np.zeros((1, self.manifest.dim), dtype=np.float32)
        n_probe = self.manifest.default_n_probe or min(1, self.manifest.n_lists)
        self.search(query_vectors, SearchParameters(k=10, n_probe=n_probe, candidates=100))
        self.search(query_vectors, SearchParameters(k=10, n_probe=n_probe))

    def close(self) -> None:
        """Let go of the index; on the search thread, which alone may free a GPU's memory."""
        self._backend.enter()
        self._segments = ()

    def search(
        self,
        query_vectors: Matrix,
        parameters: SearchParameters,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> ShardHits:
        """The best hits of each query.

        Args:
            query_vectors: float32 (n_queries, dim), C-contiguous, checked by `limits`.
            parameters: how to search, checked by `limits`.
            is_wanted: asked between batches; the work ends when it says no.

        Returns:
            Matrices of (n_queries, min(k, the shard's rows)), or narrower by `candidates`.

        Raises:
            Stopped: `is_wanted` said no.
        """
        self._backend.enter()
        if not self.manifest.n_lists:
            parameters = replace(parameters, n_probe=0)
        step = self._queries_a_call(parameters)
        parts = []
        for start in range(0, len(query_vectors), step):
            if start and not is_wanted():
                raise Stopped
            batch = query_vectors[start : start + step]
            parts.append(self._search_batch(batch, parameters))
        return stack(parts)

    def _queries_a_call(self, parameters: SearchParameters) -> int:
        if parameters.exact:
            return _EXACT_BATCH
        placed = (segment.placed for segment in self._segments if segment.placed is not None)
        return min((p.queries_a_call(parameters.n_probe) for p in placed), default=MAX_QUERIES)

    def _search_batch(self, query_vectors: Matrix, parameters: SearchParameters) -> ShardHits:
        parts = [
            self._search_segment(number, segment, query_vectors, parameters)
            for number, segment in enumerate(self._segments)
            if segment.data.n_live
        ]
        if not parts:
            return no_hits(len(query_vectors), exact=parameters.exact or parameters.candidates > 0)
        return merge(parts, parameters.k)

    def _search_segment(
        self,
        number: int,
        segment: _SearchSegment,
        query_vectors: Matrix,
        parameters: SearchParameters,
    ) -> ShardHits:
        ask = _plan(segment, parameters)
        k = min(parameters.k, ask.most)
        width = min(k + _TIE_MARGIN, ask.most)
        scores, ordinals, rows = self._ask(segment, query_vectors, ask, width)
        tied = undecided(scores, ordinals, k)
        while tied.size and width < ask.most:
            width = min(4 * width, ask.most)
            wider = self._ask(segment, query_vectors[tied], ask, width)
            scores[tied, :k], ordinals[tied, :k], rows[tied, :k] = (part[:, :k] for part in wider)
            tied = tied[undecided(wider[0], wider[1], k)]
        return ShardHits(
            ordinals=ordinals[:, :k],
            segments=np.full((len(rows), k), number, dtype=np.uint32),
            rows=rows[:, :k].astype(np.uint32),
            scores=scores[:, :k],
            exact=ask.exact,
        )

    def _ask(
        self, segment: _SearchSegment, query_vectors: Matrix, ask: "_Ask", width: int
    ) -> tuple[Scores, Ordinals, Rows]:
        params = ask.params(width)
        if ask.rotation is not None:
            query_vectors = ask.rotation.turn(query_vectors)
        scores, rows = ask.index.search(query_vectors, width, params=params)
        if self._negate:
            np.negative(scores, out=scores)
        ordinals = segment.data.ordinals[rows]  # -1 takes the last; put right below
        fillers = rows < 0
        if fillers.any():
            scores[fillers] = NO_SCORE
            ordinals[fillers] = -1
            rows[fillers] = 0
        in_order(scores, ordinals, rows)
        return scores, ordinals, rows


def select_live(deleted: npt.NDArray[np.bool_] | None, device: str) -> Any:
    """The selector, for faiss, of the rows that are not deleted; None where none is.

    Raises:
        ConfigError: on a GPU, whose searches ignore selectors without a word.
    """
    if deleted is None:
        return None
    if device != "cpu":
        raise ConfigError(
            f"the index has superseded passages, which {device} would still find; run with "
            "--device cpu, or build the index again"
        )
    return _bitmap_selector(np.packbits(~deleted, bitorder="little"))


@dataclass(frozen=True, slots=True)
class _Ask:
    """What to ask of faiss: which index, for how many hits at most, and with which parameters."""

    index: Any
    most: int
    exact: bool
    params: Callable[[int], Any]
    rotation: Rotation | None = None


def _plan(segment: _SearchSegment, parameters: SearchParameters) -> _Ask:
    most = min(segment.data.n_live, MAX_FETCH)
    live = {} if segment.live is None else {"sel": segment.live}
    if parameters.exact or segment.placed is None:
        exact = _flat_parameters(**live) if live else None
        return _Ask(segment.data.vectors, most, exact=True, params=lambda _width: exact)
    base = _ivf_parameters(nprobe=parameters.n_probe, **live) if parameters.n_probe else None
    if live and base is None:
        base = _flat_parameters(**live)
    if not parameters.candidates:
        # faiss's own rotation differs by an ulp between batches, and ties are asked for again
        rotation = segment.rotation
        return _Ask(segment.codes, most, exact=False, params=lambda _width: base, rotation=rotation)
    candidates = min(parameters.candidates, most)
    if base is not None and segment.rotation is not None:
        base = _transform_parameters(index_params=base)

    def refine(width: int) -> Any:
        # faiss takes int(width * k_factor) candidates: the half keeps it from rounding down
        return _refine_parameters(k_factor=(candidates + 0.5) / width, base_index_params=base)

    return _Ask(segment.refine, candidates, exact=True, params=refine)
