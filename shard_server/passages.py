"""Passages of one shard by their places, as columns in the order asked for.

Rule: no Python per passage but for metadata, which has none in most indexes. Must not know faiss
or the wire.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shard_server.hits import Places
from shoal.errors import InvalidArgumentError
from shoal.formats.passages import TEXT_COLUMNS, MetadataValue, PassageFile, TextColumn

FIELDS = (*TEXT_COLUMNS, "metadata")

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Passages: `texts` by column name, `metadata` one a passage or None where not asked for."""

    texts: dict[str, TextColumn]
    metadata: list[dict[str, MetadataValue]] | None


def check_fields(fields: Sequence[str], name: str) -> tuple[str, ...]:
    """The fields wanted, each once. Raises InvalidArgumentError for one that does not exist."""
    for number, field in enumerate(fields):
        if field not in FIELDS:
            raise InvalidArgumentError(
                f"{name}.paths[{number}] is {field!r}; passages have {', '.join(FIELDS)}",
                field=f"{name}.paths[{number}]",
            )
    return tuple(dict.fromkeys(fields))


def read_passages(
    files: Sequence[PassageFile], segments: Places, rows: Places, fields: Sequence[str]
) -> Columns:
    """Passages at (segments[i], rows[i]), in that order.

    Args:
        files: the shard's passages, by segment.
        segments: uint32 (n,).
        rows: uint32 (n,).
        fields: checked by `check_fields`.

    Raises:
        InvalidArgumentError: a place that the shard does not have.
    """
    _check_places(files, segments, rows)
    names = [field for field in fields if field in TEXT_COLUMNS]
    with_metadata = "metadata" in fields and any(file.metadata_names for file in files)
    if not len(rows):
        empty = TextColumn(b"", np.zeros(1, dtype=np.uint32))
        return Columns(texts=dict.fromkeys(names, empty), metadata=[] if with_metadata else None)
    first = int(segments[0])
    if (segments == first).all():
        return Columns(
            texts=files[first].take(rows, names),
            metadata=files[first].metadata(rows) if with_metadata else None,
        )
    by_segment = np.argsort(segments, kind="stable")
    numbers, starts = np.unique(segments[by_segment], return_index=True)
    groups = [
        (files[number], rows[places])
        for number, places in zip(numbers, np.split(by_segment, starts[1:]), strict=True)
    ]
    back = np.empty_like(by_segment)
    back[by_segment] = np.arange(len(by_segment))
    taken = [file.take(wanted, names) for file, wanted in groups]
    texts = {name: _reorder([columns[name] for columns in taken], back) for name in names}
    if not with_metadata:
        return Columns(texts=texts, metadata=None)
    metadata = [values for file, wanted in groups for values in file.metadata(wanted)]
    return Columns(texts=texts, metadata=[metadata[i] for i in back.tolist()])


def _check_places(files: Sequence[PassageFile], segments: Places, rows: Places) -> None:
    n_rows = np.array([file.n_rows for file in files], dtype=np.int64)
    known = segments < len(files)
    good = known & (rows < n_rows[np.where(known, segments, 0)]) if len(files) else known
    if not good.all():
        i = int(np.flatnonzero(~good)[0])
        raise InvalidArgumentError(
            f"rows[{i}]: the shard has no row {rows[i]} in segment {segments[i]}",
            field=f"rows[{i}]",
        )


def _reorder(parts: Sequence[TextColumn], order: Indices) -> TextColumn:
    """The texts of `parts`, end to end, in the order of their places in it."""
    data = memoryview(b"".join(part.data for part in parts))
    lengths = np.concatenate([np.diff(part.offsets.astype(np.int64)) for part in parts])
    begins = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    offsets = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    pieces = map(slice, begins.tolist(), (begins + lengths).tolist())
    return TextColumn(b"".join(map(data.__getitem__, pieces)), offsets.astype(np.uint32))
