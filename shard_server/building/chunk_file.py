"""Encoded chunks in a file, each at its own place, that a killed build takes up again.

Rule: a chunk counts once its checksum stands; chunks come in any order, from one writer. Where the
encoder's own float32 is kept, it lies in a second file, and a chunk is whole in both or in none.
Must not know what encodes them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shard_server.building.staging import SUMS_FILE

Rows = npt.NDArray[np.float16]
AnyRows = npt.NDArray[np.floating]
"""Float16, or float32 that has not been rounded yet."""

_VECTORS_FILE, _FLOAT32_FILE = "vectors.f16", "vectors.f32"
_SUM_BYTES = 8
_NO_SUM = bytes(_SUM_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one call encodes: `n_rows` of the corpus from row `start` on.

    They lie in one batch of the staged corpus, the `batch`-th, from its row `offset` on. `number`
    counts the chunks.
    """

    number: int
    batch: int
    offset: int
    start: int
    n_rows: int


def plan_chunks(batch_rows: Iterable[int], chunk_size: int) -> list[Chunk]:
    """The chunks of a corpus in batches of so many rows; no batch's end lies within one. Pure."""
    chunks: list[Chunk] = []
    start = 0
    for batch, n_rows in enumerate(batch_rows):
        for offset in range(0, n_rows, chunk_size):
            size = min(chunk_size, n_rows - offset)
            chunks.append(
                Chunk(number=len(chunks), batch=batch, offset=offset, start=start, n_rows=size)
            )
            start += size
    return chunks


def open_vectors(path: Path, dim: int) -> Rows:
    """The vectors of a file whose chunks are all whole, mapped: float16 (n, dim)."""
    return np.memmap(path, dtype="<f2", mode="r").reshape(-1, dim)


def open_float32(path: Path, dim: int) -> npt.NDArray[np.float32]:
    """What lies unrounded beside the vectors at `path`, mapped: float32 (n, dim)."""
    return np.memmap(path.with_name(_FLOAT32_FILE), dtype="<f4", mode="r").reshape(-1, dim)


class ChunkFile:
    """Float16 rows of `dim` in `folder`, and 8 bytes of BLAKE2b for each chunk of them.

    With `keep_float32` they lie beside them in float32 too. The sum is written after its chunk, so
    a chunk without one was cut short, or never begun; a chunk that differs from its sum was lost by
    the disk, in a power cut say.
    """

    def __init__(self, folder: Path, dim: int, *, keep_float32: bool = False) -> None:
        self.path = folder / _VECTORS_FILE
        self._tables = [_Table(file=_open(self.path), dtype="<f2", row_bytes=2 * dim)]
        if keep_float32:
            unrounded = _open(folder / _FLOAT32_FILE)
            self._tables.append(_Table(file=unrounded, dtype="<f4", row_bytes=4 * dim))
        self._sums = _open(folder / SUMS_FILE)

    def unfinished(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those of `chunks`, which are all there are, that are not whole in the file."""
        for table in self._tables:
            _cut(table.file, sum(chunk.n_rows for chunk in chunks) * table.row_bytes)
        _cut(self._sums, len(chunks) * _SUM_BYTES)
        return [chunk for chunk in chunks if not self._is_whole(chunk)]

    def put(self, chunk: Chunk, rows: AnyRows) -> None:
        """Write a chunk's rows (n_rows, dim), and then their sum; float32 ones where those are
        kept.
        """
        contents = []
        for table in self._tables:
            content = rows.astype(table.dtype, copy=False).tobytes()
            assert len(content) == chunk.n_rows * table.row_bytes, "rows were checked"
            _write_at(table.file, chunk.start * table.row_bytes, content)
            contents.append(content)
        _write_at(self._sums, chunk.number * _SUM_BYTES, _sum_of(*contents))

    def _is_whole(self, chunk: Chunk) -> bool:
        self._sums.seek(chunk.number * _SUM_BYTES)
        wanted = self._sums.read(_SUM_BYTES)
        if len(wanted) < _SUM_BYTES or wanted == _NO_SUM:  # a hole before a later chunk's sum
            return False
        contents: list[bytes] = []
        for table in self._tables:
            table.file.seek(chunk.start * table.row_bytes)
            contents.append(table.file.read(chunk.n_rows * table.row_bytes))
        return _sum_of(*contents) == bytes(wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (*(table.file for table in self._tables), self._sums):
            file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Rows of one dtype in a file."""

    file: Any
    dtype: str
    row_bytes: int


def _open(path: Path) -> Any:
    path.touch()
    return path.open("r+b", buffering=0)


def _cut(file: Any, n_bytes: int) -> None:
    if file.seek(0, 2) > n_bytes:
        file.truncate(n_bytes)


def _sum_of(*contents: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_SUM_BYTES)
    for content in contents:
        digest.update(content)
    return digest.digest()


def _write_at(file: Any, place: int, content: bytes) -> None:
    """An unbuffered file may take a part at a time."""
    file.seek(place)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
