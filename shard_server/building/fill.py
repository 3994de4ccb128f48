"""Fill the shards' segments from the staged corpus: one pass writes them all, then each is indexed.

Rule: memory holds a batch a shard, and one shard's compressed index at a time. Everything here uses
the vectors as stored, rounded to float16.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.partition import shards_of
from shard_server.building.progress import Progress
from shard_server.building.stage import StagedCorpus
from shard_server.building.vectors import VectorWriter, read_stored, write_index
from shard_server.rotation import add_rows
from shoal.formats.ids import write_ids
from shoal.formats.manifest import MetadataType, Metric
from shoal.formats.passages import PassageWriter, passage_schema

_ADD_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledSegment:
    """A segment's files in the staging folder; `has_index` is False for Flat."""

    folder: Path
    n_rows: int
    has_index: bool


def fill_shards(
    staged: StagedCorpus,
    vectors: npt.NDArray[np.float16],
    trained: faiss.Index | None,
    folder: Path,
    *,
    n_shards: int,
    metric: Metric,
    first_ordinal: int,
    progress: Progress,
) -> list[FilledSegment]:
    """Write one segment a shard into `folder`, each in its own folder, rows in ingestion order.

    `vectors` is float16 (n_passages, dim). A shard that gets no passage has n_rows 0 and no files.
    """
    shards = shards_of(staged.hashes, n_shards)
    folders = [folder / f"shard-{number:04d}" for number in range(n_shards)]
    n_rows = np.bincount(shards, minlength=n_shards).tolist()
    _split(
        staged,
        vectors,
        shards,
        folders,
        metric=metric,
        first_ordinal=first_ordinal,
        report=progress,
    )
    n_indexed = 0
    for number, shard_folder in enumerate(folders):
        write_ids(shard_folder / "ids.arrow", staged.hashes[shards == number])
        if trained is not None:
            _index_segment(trained, shard_folder)
        n_indexed += n_rows[number]
        progress("fill", staged.n_passages + n_indexed, 2 * staged.n_passages)
    return [
        FilledSegment(folder=shard_folder, n_rows=count, has_index=trained is not None)
        for shard_folder, count in zip(folders, n_rows, strict=True)
    ]


def _split(
    staged: StagedCorpus,
    vectors: npt.NDArray[np.float16],
    shards: npt.NDArray[np.uint16],
    folders: Sequence[Path],
    *,
    metric: Metric,
    first_ordinal: int,
    report: Progress,
) -> None:
    """Write every shard's passages.arrow and vectors.faiss in one pass over the staged corpus."""
    dim = vectors.shape[1]
    with ExitStack() as stack:
        passage_files, vector_files = [], []
        for folder in folders:
            folder.mkdir()
            writer = PassageWriter(folder / "passages.arrow", staged.metadata_columns)
            passage_files.append(stack.enter_context(writer))
            vector_writer = VectorWriter(folder / "vectors.faiss", dim, metric)
            vector_files.append(stack.enter_context(vector_writer))
        start = 0
        for batch in staged.batches():
            end = start + batch.num_rows
            passages = _with_ordinals(batch, first_ordinal + start, staged.metadata_columns)
            for number in np.unique(shards[start:end]).tolist():
                rows = np.flatnonzero(shards[start:end] == number)
                passage_files[number].write(passages.take(pa.array(rows)))
                vector_files[number].write(vectors[start:end][rows])
            start = end
            report("fill", start, 2 * staged.n_passages)


def _with_ordinals(
    batch: pa.RecordBatch, first_ordinal: int, metadata_columns: Mapping[str, MetadataType]
) -> pa.RecordBatch:
    """A staged batch as passages.arrow has it: ordinals first, metadata in typed columns."""
    ordinals = pa.array(np.arange(first_ordinal, first_ordinal + batch.num_rows))
    schema = passage_schema(metadata_columns)
    columns = [ordinals, *(batch.column(name) for name in ("id", "title", "text"))]
    if metadata_columns:
        texts = batch.column("metadata").to_pylist()
        records = [json.loads(text) if text else {} for text in texts]
        for name, kind in metadata_columns.items():
            values = [record.get(name) for record in records]
            if kind == "double":
                values = [None if value is None else float(value) for value in values]
            columns.append(pa.array(values, schema.field(len(columns)).type))
    return pa.record_batch(columns, schema=schema)


def _index_segment(trained: faiss.Index, folder: Path) -> None:
    index = faiss.clone_index(trained)
    stored = read_stored(folder / "vectors.faiss", trained.d)
    for start in range(0, len(stored), _ADD_ROWS):
        add_rows(index, stored[start : start + _ADD_ROWS].astype(np.float32))
    write_index(index, folder / "index.faiss")
