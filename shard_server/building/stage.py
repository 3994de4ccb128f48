"""The staged corpus: read and checked as a whole, before anything costs time.

Rule: memory holds one batch and 8 bytes a passage (16 while duplicates are looked for). A corpus
with a fault in its last line costs a reading, never an encoding. It is read again by every build, a
taken up one too: its digests, and no date or size of a file, say what earlier work fits.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.passage import MetadataColumns, Passage
from shard_server.building.progress import Progress
from shoal.contract import EncoderContract
from shoal.errors import CorpusError
from shoal.formats.ids import Hashes, hash64
from shoal.formats.manifest import MetadataType
from shoal.formats.passages import MAX_BATCH_BYTES, MAX_BATCH_ROWS

_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "metadata", "where")])


class PassageEncode(Protocol):
    """Turns passages into vectors; `contract` is None for vectors that no encoder explains."""

    @property
    def contract(self) -> EncoderContract | None:
        """What a question encoder must agree with."""

    @property
    def dim(self) -> int:
        """Columns of a vector."""

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One float32 row a passage: (n, dim), finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedCorpus:
    """A checked corpus on disk; `hashes` is uint64 (n_passages,), the ids' hash64.

    `text_digest` is of titles and texts, which vectors depend on; `digest` of all but `where`.
    """

    path: Path
    hashes: Hashes
    digest: str
    text_digest: str
    metadata_columns: dict[str, MetadataType]

    @property
    def n_passages(self) -> int:
        """Passages in it."""
        return len(self.hashes)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Columns id, title, text, metadata (JSON or ""), where; in ingestion order."""
        with pa.memory_map(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def stage_corpus(passages: Iterable[Passage], path: Path, progress: Progress) -> StagedCorpus:
    """Write `passages` to `path`, checked as a whole.

    Raises:
        CorpusError: at the first fault; a duplicate id names both places.
    """
    hashes = array("Q")
    columns = MetadataColumns()
    digest, text_digest = hashlib.sha256(), hashlib.sha256()
    progress("read", 0, None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in _batches(passages):
            for passage in batch:
                columns.meet(passage)
                hashes.append(hash64(passage.id))
            table = _to_arrow(batch)
            writer.write_batch(table)
            for name in ("title", "text"):
                _digest(text_digest, table.column(name))
            for name in ("id", "title", "text", "metadata"):
                _digest(digest, table.column(name))
            progress("read", len(hashes), None)
    if not hashes:
        raise CorpusError("the corpus holds no passages")
    staged = StagedCorpus(
        path=path,
        hashes=np.frombuffer(hashes, dtype=np.uint64),
        digest=digest.hexdigest(),
        text_digest=text_digest.hexdigest(),
        metadata_columns=columns.types,
    )
    _refuse_duplicates(staged)
    progress("read", staged.n_passages, staged.n_passages)
    return staged


def _batches(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    n_chars = 0
    for passage in passages:
        batch.append(passage)
        n_chars += len(passage.text) + len(passage.title)
        if len(batch) == MAX_BATCH_ROWS or n_chars >= MAX_BATCH_BYTES:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _to_arrow(batch: Sequence[Passage]) -> pa.RecordBatch:
    columns = [
        [passage.id for passage in batch],
        [passage.title for passage in batch],
        [passage.text for passage in batch],
        [json.dumps(dict(passage.metadata)) if passage.metadata else "" for passage in batch],
        [passage.where for passage in batch],
    ]
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=_SCHEMA)


def _digest(digest: "hashlib._Hash", column: pa.Array) -> None:
    """Take in a column of texts: their lengths, then their bytes. `column` begins its buffers."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, dtype="<i4", count=len(column) + 1)
    digest.update(np.diff(ends).tobytes())
    if data is not None:
        digest.update(memoryview(data)[ends[0] : ends[-1]])


def _refuse_duplicates(staged: StagedCorpus) -> None:
    order = np.argsort(staged.hashes, kind="stable")
    ranked = staged.hashes[order]
    repeats = np.flatnonzero(ranked[1:] == ranked[:-1])
    if not repeats.size:
        return
    suspects = np.unique(np.concatenate([order[repeats], order[repeats + 1]]))
    seen: dict[str, str] = {}
    start = 0
    # Equal hashes are only a suspicion: the ids themselves decide.
    for batch in staged.batches():
        end = start + batch.num_rows
        rows = suspects[(suspects >= start) & (suspects < end)] - start
        found = batch.take(pa.array(rows))
        ids, places = found.column("id").to_pylist(), found.column("where").to_pylist()
        for passage_id, where in zip(ids, places, strict=True):
            if passage_id in seen:
                raise CorpusError(f"{where}: id {passage_id!r} was used at {seen[passage_id]}")
            seen[passage_id] = where
        start = end
