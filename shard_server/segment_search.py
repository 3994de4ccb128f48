"""Search one segment: candidates from the codes, scores from the vectors, ties by ordinal.

Rule: a search that meets neither a tie nor a short list, as most do, costs faiss's own time and
some ten numpy calls. After milliseconds of scanning the processor's caches are full of codes, and
such a call takes 10 us instead of 1; so what a setting needs of faiss is made once and kept. All of
it runs on the one search thread. This module must not know other segments, and not the wire.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.devices import PlacedIndex
from shard_server.hits import (
    NO_SCORE,
    Ordinals,
    Scores,
    ShardHits,
    in_order,
    is_settled,
    undecided,
)
from shard_server.limits import MAX_FETCH, MAX_QUERIES, SearchParameters
from shard_server.rotation import Rotation, take_apart
from shard_server.segment import SegmentData
from shoal.errors import ConfigError
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
_MAX_ASKS = 64
"""Settings whose faiss parameters are kept; a router sends a handful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """What one setting asks of faiss: of which index, for how many hits, with which parameters.

    The best `k` of `width` are answered, and `most` can be asked for. `params` is for `width`;
    `params_of` makes those of another one.
    """

    index: Any
    k: int
    width: int
    most: int
    exact: bool
    params: Any
    params_of: Callable[[int], Any]
    rotation: Rotation | None = None


class SegmentSearch:
    """One segment with live rows.

    Args:
        number: the segment's place in the shard.
        data: the segment as it was read.
        placed: its compressed index on its device; None where the stored vectors are the index.
        device: the device's name.
        negate: whether faiss's distances must become scores, higher being better.
        has_lists: whether the compressed index is made of inverted lists.

    Raises:
        ConfigError: rows are deleted, and the device can't leave them out.
    """

    def __init__(
        self,
        number: int,
        data: SegmentData,
        placed: PlacedIndex | None,
        device: str,
        *,
        negate: bool,
        has_lists: bool,
    ) -> None:
        self._number = number
        self._data = data
        self._placed = placed
        self._negate = negate
        self._has_lists = has_lists
        self._live = select_live(data.deleted, device)
        self._refine = self._codes = self._rotation = None
        if placed is not None:
            self._refine = faiss.IndexRefine(placed.index, data.vectors)
            transform, self._codes = take_apart(placed.index)
            self._rotation = None if transform is None else Rotation.of(transform)
        self._asks: dict[SearchParameters, _Ask] = {}

    @property
    def number(self) -> int:
        """The segment's place in the shard."""
        return self._number

    @property
    def data(self) -> SegmentData:
        """The segment as it was read."""
        return self._data

    def queries_a_call(self, n_probe: int) -> int:
        """Queries that one search takes; as many as fit a GPU's temporary memory."""
        return MAX_QUERIES if self._placed is None else self._placed.queries_a_call(n_probe)

    def search(self, query_vectors: Matrix, parameters: SearchParameters) -> ShardHits:
        """The best hits of each query: matrices of (n_queries, at most k).

        Args:
            query_vectors: float32 (n_queries, dim), C-contiguous, no more than fit one call.
            parameters: how to search, checked by `limits`.
        """
        ask = self._asks.get(parameters) or self._remember(parameters)
        scores, rows = self._fetch(query_vectors, ask, ask.width, ask.params)
        k = ask.k
        if is_settled(scores, rows):
            rows = rows[:, :k]
            ordinals = self._data.ordinals[rows]
        else:
            scores, ordinals, rows = self._settle(query_vectors, ask, scores, rows)
        segments = np.empty(rows.shape, dtype=np.uint32)
        segments.fill(self._number)
        return ShardHits(
            ordinals=ordinals,
            segments=segments,
            rows=rows.astype(np.uint32),
            scores=scores[:, :k],
            exact=ask.exact,
        )

    def _remember(self, parameters: SearchParameters) -> _Ask:
        if len(self._asks) >= _MAX_ASKS:
            self._asks.clear()
        ask = self._asks[parameters] = self._plan(parameters)
        return ask

    def _plan(self, parameters: SearchParameters) -> _Ask:
        most = min(self._data.n_live, MAX_FETCH)
        live = {} if self._live is None else {"sel": self._live}
        if parameters.exact or self._placed is None:
            exact = _flat_parameters(**live) if live else None
            return _ask(self._data.vectors, parameters, most, lambda _width: exact, exact=True)
        base = _ivf_parameters(nprobe=parameters.n_probe, **live) if self._has_lists else None
        if live and base is None:
            base = _flat_parameters(**live)
        if not parameters.candidates:
            # faiss's own rotation differs by an ulp between batches, and ties are asked for again
            return _ask(self._codes, parameters, most, lambda _width: base, rotation=self._rotation)
        candidates = min(parameters.candidates, most)
        if base is not None and self._rotation is not None:
            base = _transform_parameters(index_params=base)

        def refine(width: int) -> Any:
            # faiss takes int(width * k_factor) candidates: the half keeps it from rounding down
            return _refine_parameters(k_factor=(candidates + 0.5) / width, base_index_params=base)

        return _ask(self._refine, parameters, candidates, refine, exact=True)

    def _fetch(
        self, query_vectors: Matrix, ask: _Ask, width: int, params: Any
    ) -> tuple[Scores, Rows]:
        if ask.rotation is not None:
            query_vectors = ask.rotation.turn(query_vectors)
        n_queries = len(query_vectors)
        scores = np.empty((n_queries, width), dtype=np.float32)
        rows = np.empty((n_queries, width), dtype=np.int64)
        # what faiss's own `search` does, without its checks: 3 us of a lone query's 70
        ask.index.search_c(
            n_queries,
            faiss.swig_ptr(query_vectors),
            width,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            params,
        )
        if self._negate:
            np.negative(scores, out=scores)
        return scores, rows

    def _settle(
        self, query_vectors: Matrix, ask: _Ask, scores: Scores, rows: Rows
    ) -> tuple[Scores, Ordinals, Rows]:
        """Ties in order, also over the k-th place; fillers as `ShardHits` has them. k columns."""
        k, width = ask.k, ask.width
        ordinals = self._put_in_order(scores, rows)
        tied = undecided(scores, ordinals, k)
        while tied.size and width < ask.most:
            width = min(4 * width, ask.most)
            wide_scores, wide_rows = self._fetch(
                query_vectors[tied], ask, width, ask.params_of(width)
            )
            wide_ordinals = self._put_in_order(wide_scores, wide_rows)
            scores[tied, :k] = wide_scores[:, :k]
            ordinals[tied, :k] = wide_ordinals[:, :k]
            rows[tied, :k] = wide_rows[:, :k]
            tied = tied[undecided(wide_scores, wide_ordinals, k)]
        return scores[:, :k], ordinals[:, :k], rows[:, :k]

    def _put_in_order(self, scores: Scores, rows: Rows) -> Ordinals:
        ordinals = self._data.ordinals[rows]  # -1 takes the last; put right below
        fillers = rows < 0
        if fillers.any():
            scores[fillers] = NO_SCORE
            ordinals[fillers] = -1
            rows[fillers] = 0
        in_order(scores, ordinals, rows)
        return ordinals


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


def _ask(
    index: Any,
    parameters: SearchParameters,
    most: int,
    params_of: Callable[[int], Any],
    *,
    exact: bool = False,
    rotation: Rotation | None = None,
) -> _Ask:
    k = min(parameters.k, most)
    width = min(k + _TIE_MARGIN, most)
    return _Ask(
        index=index,
        k=k,
        width=width,
        most=most,
        exact=exact,
        params=params_of(width),
        params_of=params_of,
        rotation=rotation,
    )
