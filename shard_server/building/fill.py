"""Fill the shards' segments from the staged corpus: one pass parts them, then each is indexed.

Rule: memory holds a batch a shard, and one shard's compressed index at a time. Everything here uses
the vectors as stored, rounded to float16.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.partition import shards_of
from shard_server.building.progress import Progress
from shard_server.building.stage import StagedCorpus
from shard_server.building.staging import Output, Staging
from shard_server.building.train import Trained
from shard_server.building.vectors import VectorWriter, read_stored, write_index
from shard_server.building.workspace import Workspace
from shard_server.rotation import add_rows
from shoal.formats.ids import write_ids
from shoal.formats.manifest import MetadataType, Metric, Segment, SegmentFiles
from shoal.formats.passages import PassageWriter, passage_schema

_INDEX_FILE = "index.faiss"
_ADD_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledSegment:
    """A shard's new segment, not yet among the index's data; `index` is None for Flat."""

    number: int
    n_rows: int
    split: Output
    index: Output | None


def fill_shards(
    staged: StagedCorpus,
    vectors: npt.NDArray[np.float16],
    trained: Trained | None,
    staging: Staging,
    *,
    n_shards: int,
    metric: Metric,
    first_ordinal: int,
    vectors_from: Mapping[str, Any],
) -> list[FilledSegment]:
    """One segment a shard, rows in ingestion order; a shard without passages has n_rows 0.

    `vectors` is float16 (n_passages, dim), and `vectors_from` is what they depend on.
    """
    shards = shards_of(staged.hashes, n_shards)
    n_rows = np.bincount(shards, minlength=n_shards).tolist()
    split, was_there = staging.make(
        "split",
        {
            "corpus": staged.digest,
            "vectors": dict(vectors_from),
            "n_shards": n_shards,
            "metric": metric,
            "first_ordinal": first_ordinal,
            "metadata_columns": staged.metadata_columns,
        },
        partial(
            _split,
            staged,
            vectors,
            shards,
            metric=metric,
            first_ordinal=first_ordinal,
            report=staging.progress,
        ),
    )
    if was_there:
        staging.progress("kept partition", staged.n_passages, staged.n_passages)
    return _index(trained, split, n_rows, staging)


def adopt_segment(workspace: Workspace, segment: FilledSegment) -> tuple[Segment, ...]:
    """The segment among the index's files; none where no passage fell to the shard."""
    if not segment.n_rows:
        return ()
    folder = _folder(segment.number)
    vectors, passages, ids = (
        workspace.publish(segment.split, f"{folder}/{name}")
        for name in ("vectors.faiss", "passages.arrow", "ids.arrow")
    )
    index = workspace.publish(segment.index, _INDEX_FILE) if segment.index else None
    files = SegmentFiles(index=index, vectors=vectors, passages=passages, ids=ids)
    return (Segment(n_rows=segment.n_rows, n_live=segment.n_rows, files=files),)


def _index(
    trained: Trained | None, split: Output, n_rows: Sequence[int], staging: Staging
) -> list[FilledSegment]:
    """Every shard's compressed index, one at a time."""
    found: list[FilledSegment] = []
    n_total = sum(n_rows)
    done = n_kept = 0
    for number, count in enumerate(n_rows):
        index = None
        if trained is not None and count:
            name = f"{_folder(number)}/vectors.faiss"
            stored = read_stored(split.path(name), trained.index.d)
            inputs = {"vectors": split.files[name].sha256, "trained": trained.sha256}
            index, was_there = staging.make(
                "index", inputs, partial(_index_segment, trained.index, stored)
            )
            n_kept += count * was_there
        found.append(FilledSegment(number=number, n_rows=count, split=split, index=index))
        done += count
        staging.progress("fill", n_total + done, 2 * n_total)
    if n_kept:
        staging.progress("kept fill", n_kept, n_kept)
    staging.drop_others("index", {part.index.folder.name for part in found if part.index})
    return found


def _folder(number: int) -> str:
    return f"shard-{number:04d}"


def _split(
    staged: StagedCorpus,
    vectors: npt.NDArray[np.float16],
    shards: npt.NDArray[np.uint16],
    folder: Path,
    *,
    metric: Metric,
    first_ordinal: int,
    report: Progress,
) -> None:
    """Write every shard's passages, vectors and ids, in one pass over the staged corpus."""
    dim = vectors.shape[1]
    numbers = np.unique(shards).tolist()
    folders = {number: folder / _folder(number) for number in numbers}
    report("fill", 0, 2 * staged.n_passages)
    with ExitStack() as stack:
        passage_files: dict[int, PassageWriter] = {}
        vector_files: dict[int, VectorWriter] = {}
        for number, place in folders.items():
            place.mkdir()
            passages_to = PassageWriter(place / "passages.arrow", staged.metadata_columns)
            passage_files[number] = stack.enter_context(passages_to)
            vectors_to = VectorWriter(place / "vectors.faiss", dim, metric)
            vector_files[number] = stack.enter_context(vectors_to)
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
    for number, place in folders.items():
        write_ids(place / "ids.arrow", staged.hashes[shards == number])


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


def _index_segment(trained: Any, stored: npt.NDArray[np.float16], folder: Path) -> None:
    index = faiss.clone_index(trained)
    for start in range(0, len(stored), _ADD_ROWS):
        add_rows(index, stored[start : start + _ADD_ROWS].astype(np.float32))
    write_index(index, folder / _INDEX_FILE)
