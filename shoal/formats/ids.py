"""ids.arrow: a segment's ids as sorted 64-bit hashes with their rows.

Rule: a hash proposes and the passage's own id decides, for two ids may share a hash. Must not know
how passages are partitioned beyond this hash.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shoal.errors import IndexFormatError

Hashes = npt.NDArray[np.uint64]

_SCHEMA = pa.schema(
    [pa.field("hash", pa.uint64(), nullable=False), pa.field("row", pa.uint32(), nullable=False)]
)
_MAX_BATCH_ROWS = 1 << 20


def hash64(passage_id: str) -> int:
    """blake2b of the id's UTF-8, 8 bytes, read as a little-endian unsigned integer."""
    return int.from_bytes(hashlib.blake2b(passage_id.encode(), digest_size=8).digest(), "little")


def hash_ids(ids: Iterable[str]) -> Hashes:
    """`hash64` of each id: uint64 (n,)."""
    return np.fromiter((hash64(passage_id) for passage_id in ids), dtype=np.uint64)


def write_ids(path: Path, hashes: Hashes) -> None:
    """Write a segment's ids.arrow; `hashes` is uint64 (n_rows,) in row order."""
    order = np.argsort(hashes, kind="stable")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for start in range(0, len(order), _MAX_BATCH_ROWS):
            rows = order[start : start + _MAX_BATCH_ROWS]
            columns = [pa.array(hashes[rows]), pa.array(rows.astype(np.uint32))]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


class IdFile:
    """A mapped ids.arrow."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._hashes = [batch.column(0).to_numpy() for batch in batches]
        self._rows = [batch.column(1).to_numpy() for batch in batches]
        self.n_rows = sum(len(hashes) for hashes in self._hashes)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file; IndexFormatError where it isn't an ids file."""
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise IndexFormatError(f"{path}: not a readable Arrow file: {error}") from error
        if not reader.schema.equals(_SCHEMA):
            raise IndexFormatError(f"{path}: its columns {reader.schema.names} aren't ids'")
        return cls(batches)

    def contains(self, wanted: Hashes) -> npt.NDArray[np.bool_]:
        """Which of these hashes (n,) are there: bool (n,)."""
        found = np.zeros(len(wanted), dtype=np.bool_)
        for hashes in filter(len, self._hashes):
            places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            found |= hashes[places] == wanted
        return found

    def find(self, passage_id: str) -> list[int]:
        """Rows whose id may be `passage_id`, ascending: none, one, or in a blue moon two."""
        wanted = np.uint64(hash64(passage_id))
        found: list[int] = []
        for hashes, rows in zip(self._hashes, self._rows, strict=True):
            first, end = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
            found += rows[first:end].tolist()
        return sorted(found)
