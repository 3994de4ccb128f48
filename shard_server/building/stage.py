"""The staged corpus: read and checked once, before anything costs time; then encoded from there.

Rule: memory holds one batch and 8 bytes a passage (16 while duplicates are looked for). A corpus
with a fault in its last line costs a reading, never an encoding.
"""

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
from shoal.errors import ConfigError, CorpusError
from shoal.formats.ids import Hashes, hash64
from shoal.formats.manifest import MetadataType
from shoal.formats.passages import MAX_BATCH_BYTES, MAX_BATCH_ROWS

_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "metadata", "where")])
_FLOAT16_MAX = float(np.finfo(np.float16).max)


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
    """A checked corpus on disk; `hashes` is uint64 (n_passages,), the ids' hash64."""

    path: Path
    hashes: Hashes
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
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in _batches(passages):
            for passage in batch:
                columns.meet(passage)
                hashes.append(hash64(passage.id))
            writer.write_batch(_to_arrow(batch))
            progress("read", len(hashes), None)
    if not hashes:
        raise CorpusError("the corpus holds no passages")
    staged = StagedCorpus(
        path=path,
        hashes=np.frombuffer(hashes, dtype=np.uint64),
        metadata_columns=columns.types,
    )
    _refuse_duplicates(staged)
    progress("read", staged.n_passages, staged.n_passages)
    return staged


def encode_corpus(
    staged: StagedCorpus,
    path: Path,
    encode: PassageEncode,
    *,
    chunk_size: int,
    progress: Progress,
) -> None:
    """Write the vectors of `staged` to `path`: raw float16 rows in ingestion order.

    Raises:
        ConfigError: the encoder answered with the wrong shape or with values out of range.
    """
    done = 0
    with path.open("wb") as file:
        for batch in staged.batches():
            for start in range(0, batch.num_rows, chunk_size):
                part = batch.slice(start, chunk_size)
                titles, texts = part.column("title").to_pylist(), part.column("text").to_pylist()
                vectors = np.asarray(encode(titles, texts))
                _check_vectors(vectors, n_rows=part.num_rows, dim=encode.dim)
                file.write(vectors.astype("<f2").tobytes())
                done += part.num_rows
                progress("encode", done, staged.n_passages)


def open_vectors(path: Path, dim: int) -> npt.NDArray[np.float16]:
    """The vectors that `encode_corpus` wrote, mapped: float16 (n, dim)."""
    return np.memmap(path, dtype="<f2", mode="r").reshape(-1, dim)


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


def _check_vectors(vectors: npt.NDArray[np.float32], *, n_rows: int, dim: int) -> None:
    if vectors.shape != (n_rows, dim):
        raise ConfigError(f"the encoder answered {vectors.shape} for {n_rows} passages of {dim}")
    # NaN fails this comparison too.
    if not (np.abs(vectors) <= _FLOAT16_MAX).all():
        raise ConfigError(
            "the encoder answered with NaN, infinity or a value beyond float16 "
            f"({_FLOAT16_MAX:,.0f}); nothing was written"
        )
