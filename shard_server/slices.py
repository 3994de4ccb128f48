"""A segment's stored vectors as slices of rows, so that brute force over them has places to stop.

Rule: a slice is a view, not a copy, and is searched as a whole segment without codes is: the same
scores bit for bit, ties by ordinal. For the search thread alone. Knows neither wire nor priority.
"""

from dataclasses import dataclass, replace
from typing import Any

import faiss

from shard_server.hits import ShardHits
from shard_server.limits import SearchParameters
from shard_server.segment import SegmentData
from shard_server.segment_search import SegmentSearch
from shoal.vectors import Matrix

# faiss's stubs lack it
_view: Any = faiss.MaybeOwnedVectorUInt8.create_view  # type: ignore[attr-defined,unused-ignore]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows from `first_row` on; `search` counts them from 0."""

    first_row: int
    segment: SegmentSearch

    def search(self, query_vectors: Matrix, parameters: SearchParameters) -> ShardHits:
        """The slice's best hits by brute force, as `SegmentSearch.search`."""
        hits = self.segment.search(query_vectors, parameters)
        if self.first_row:
            hits.rows[hits.ordinals >= 0] += self.first_row
        return hits


def slices_of(
    number: int, data: SegmentData, n_rows: int, *, device: str, negate: bool
) -> tuple[Slice, ...]:
    """Slices of `n_rows` rows of the segment that has this number; none without live rows.

    Args:
        number: the segment's place in the shard.
        data: the segment; its vectors must outlive the slices.
        n_rows: of each slice but the last.
        device: the shard's.
        negate: whether faiss's distances must become scores.
    """
    return tuple(
        Slice(
            first_row=first,
            segment=SegmentSearch(number, part, None, device, negate=negate, has_lists=False),
        )
        for first in range(0, data.n_rows, n_rows)
        if (part := _part(data, first, min(data.n_rows, first + n_rows))).n_live
    )


def _part(data: SegmentData, first: int, end: int) -> SegmentData:
    deleted = None if data.deleted is None else data.deleted[first:end]
    return replace(
        data,
        n_rows=end - first,
        n_live=end - first - (0 if deleted is None else int(deleted.sum())),
        deleted=deleted,
        index=None,
        vectors=_vectors(data.vectors, first, end),
        ordinals=data.ordinals[first:end],
    )


def _vectors(whole: Any, first: int, end: int) -> Any:
    n_bytes = whole.code_size
    codes = faiss.rev_swig_ptr(whole.codes.data(), whole.ntotal * n_bytes)
    part = codes[first * n_bytes : end * n_bytes]
    view = faiss.IndexScalarQuantizer(whole.d, whole.sq.qtype, whole.metric_type)
    view.codes = _view(faiss.swig_ptr(part), part.size, whole.codes.owner)
    view.ntotal = end - first
    view.is_trained = True
    return view
