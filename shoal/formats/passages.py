"""passages.arrow: a segment's passages as columns, written as a stream, read where they lie.

Rule: reading touches the pages of the wanted rows alone, and no Python runs per row. An Arrow IPC
*file*, uncompressed; rows are the segment's faiss rows. Must not know faiss or protobuf.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shoal.errors import IndexFormatError
from shoal.formats.manifest import MetadataType

TEXT_COLUMNS = ("id", "title", "text")
MAX_BATCH_ROWS = 8_192
MAX_BATCH_BYTES = 32 << 20

Rows = npt.NDArray[np.integer[Any]]
MetadataValue = str | int | float | bool | list[str]

_ARROW_TYPES: dict[MetadataType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string_list": pa.list_(pa.string()),
}


class TextColumn(NamedTuple):
    """Texts laid end to end: text i is `data[offsets[i]:offsets[i + 1]]`, UTF-8."""

    data: bytes
    offsets: npt.NDArray[np.uint32]


def passage_schema(metadata_columns: Mapping[str, MetadataType]) -> pa.Schema:
    """The columns of passages.arrow; a metadata column named like one of ours keeps its place."""
    fields = [pa.field("ordinal", pa.int64(), nullable=False)]
    fields += [pa.field(name, pa.string(), nullable=False) for name in TEXT_COLUMNS]
    fields += [pa.field(name, _ARROW_TYPES[kind]) for name, kind in metadata_columns.items()]
    return pa.schema(fields)


class PassageWriter:
    """Writes passages.arrow batch by batch; holds one batch of rows at most."""

    def __init__(self, path: Path, metadata_columns: Mapping[str, MetadataType]) -> None:
        self.schema = passage_schema(metadata_columns)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)
        self._waiting: list[pa.RecordBatch] = []
        self.n_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append `batch`, of exactly `schema`."""
        self._waiting.append(batch)
        self.n_rows += batch.num_rows
        n_waiting = sum(part.num_rows for part in self._waiting)
        n_bytes = sum(part.nbytes for part in self._waiting)
        if n_waiting >= MAX_BATCH_ROWS or n_bytes >= MAX_BATCH_BYTES:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._writer.close()
        finally:
            self._sink.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self.schema).combine_chunks()
            self._writer.write_table(table, max_chunksize=MAX_BATCH_ROWS)
            self._waiting = []


class _TextPlaces(NamedTuple):
    """Where each batch's buffers of one text column begin in the file, in bytes."""

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.int64]


class PassageFile:
    """A mapped passages.arrow. Safe to read from several threads; `ordinals` alone is copied."""

    def __init__(self, path: Path, mapped: pa.Buffer, batches: Sequence[pa.RecordBatch]) -> None:
        self.path = path
        self._bytes = memoryview(mapped)
        self._ints = np.frombuffer(mapped, dtype="<i4", count=mapped.size // 4)
        self._batches = batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)], dtype=np.int64)
        self.n_rows = int(self._starts[-1])
        self.ordinals = _copy_ordinals(batches)
        """int64 (n_rows,): each row's ordinal, ascending."""
        self._places = {
            name: _find_text([batch.column(number) for batch in batches], mapped.address)
            for number, name in enumerate(TEXT_COLUMNS, start=1)
        }

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file; IndexFormatError where it isn't a passages file of this format."""
        if sys.byteorder != "little":
            raise IndexFormatError(f"{path}: the format is little-endian; this machine is not")
        try:
            with pa.memory_map(str(path)) as source:
                mapped = source.read_buffer()
            reader = pa.ipc.open_file(pa.BufferReader(mapped))
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise IndexFormatError(f"{path}: not a readable Arrow file: {error}") from error
        expected = passage_schema({})
        if reader.schema.names[: len(expected)] != expected.names or any(
            reader.schema.field(number).type != field.type for number, field in enumerate(expected)
        ):
            raise IndexFormatError(f"{path}: its columns {reader.schema.names} aren't passages'")
        return cls(path, mapped, batches)

    @property
    def metadata_names(self) -> tuple[str, ...]:
        """The metadata columns, in the manifest's order."""
        if not self._batches:
            return ()
        return tuple(self._batches[0].schema.names[1 + len(TEXT_COLUMNS) :])

    def take(self, rows: Rows, columns: Sequence[str]) -> dict[str, TextColumn]:
        """Texts of `rows` (any order, repeats allowed) for each of `columns` (id, title, text).

        Raises:
            IndexError: a row outside 0..n_rows-1.
        """
        batch, local = self._locate(rows)
        return {name: self._gather(self._places[name], batch, local) for name in columns}

    def metadata(self, rows: Rows) -> list[dict[str, MetadataValue]]:
        """Each row's metadata by name, without the values it lacks."""
        batch, local = self._locate(rows)
        if not self.metadata_names:
            return [{} for _ in rows]
        # By place, not by name: a metadata column may be called "title" too.
        places = range(1 + len(TEXT_COLUMNS), self._batches[0].num_columns)
        found: list[dict[str, MetadataValue]] = []
        for number, row in zip(batch.tolist(), local.tolist(), strict=True):
            (values,) = self._batches[number].slice(row, 1).select(places).to_pylist()
            found.append({name: value for name, value in values.items() if value is not None})
        return found

    def _locate(self, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        wanted = rows.astype(np.int64)
        if wanted.size and (int(wanted.min()) < 0 or int(wanted.max()) >= self.n_rows):
            raise IndexError(f"{self.path}: row outside 0..{self.n_rows - 1}")
        batch = np.searchsorted(self._starts, wanted, side="right") - 1
        return batch, wanted - self._starts[batch]

    def _gather(
        self,
        places: _TextPlaces,
        batch: npt.NDArray[np.int64],
        local: npt.NDArray[np.int64],
    ) -> TextColumn:
        # pyarrow's take on a chunked column copies the whole column (13 ms at 300 MB); slicing the
        # mapping costs 12 us for 10 rows and 0.2 ms for 1,000.
        slots = (places.offsets[batch] >> 2) + local
        begins = self._ints[slots].astype(np.int64)
        lengths = self._ints[slots + 1] - begins
        offsets = np.zeros(len(local) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] > np.iinfo(np.uint32).max:
            raise IndexError(f"{self.path}: {len(local)} rows hold more than 4 GiB of text")
        begins += places.data[batch]
        pieces = map(slice, begins.tolist(), (begins + lengths).tolist())
        data = b"".join(map(self._bytes.__getitem__, pieces))
        return TextColumn(data, offsets.astype(np.uint32))


def _copy_ordinals(batches: Sequence[pa.RecordBatch]) -> npt.NDArray[np.int64]:
    if not batches:
        return np.empty(0, dtype=np.int64)
    return np.concatenate([batch.column(0).to_numpy() for batch in batches])


def _find_text(column: Sequence[pa.Array], base: int) -> _TextPlaces:
    found = [array.buffers() for array in column]
    # An empty column may come without its data buffer: then no byte of it is ever read.
    data = [0 if buffers[2] is None else buffers[2].address - base for buffers in found]
    offsets = [buffers[1].address - base for buffers in found]
    return _TextPlaces(np.array(offsets, dtype=np.int64), np.array(data, dtype=np.int64))
