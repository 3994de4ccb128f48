"""A shard's new segment: its part of the corpus as files, and the compressed index of them.

Rule: what a shard gets follows from the staged corpus and the encoded vectors alone, so that shards
are made in one pass or side by side, here or on other machines, to the same bytes. Memory holds a
batch a shard, or one compressed index. Everything here uses the vectors as stored: float16.
"""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.chunk_file import open_vectors
from shard_server.building.partition import shards_of
from shard_server.building.stage import StagedCorpus
from shard_server.building.staging import Output, Staging, key_of
from shard_server.building.vectors import VectorWriter, read_stored, write_index
from shard_server.rotation import add_rows
from shoal.formats.ids import write_ids
from shoal.formats.manifest import MetadataType, Metric
from shoal.formats.passages import PassageWriter, passage_schema

INDEX_FILE = "index.faiss"
_ADD_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitJob:
    """The corpus and its vectors, float16 (n_passages, dim) at `vectors`, to be parted."""

    staged: StagedCorpus
    vectors: Path
    dim: int
    n_shards: int
    metric: Metric
    first_ordinal: int

    def shards(self) -> npt.NDArray[np.uint16]:
        """The shard of each passage."""
        return shards_of(self.staged.hashes, self.n_shards)

    def numbers(self) -> list[int]:
        """The shards that any passage fell to, ascending."""
        return [int(number) for number in np.unique(self.shards())]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexJob:
    """One shard's stored vectors, to be added to the trained, empty index."""

    number: int
    n_rows: int
    index_dir: Path
    vectors: Path
    vectors_sha256: str
    trained_sha256: str
    dim: int

    @property
    def inputs(self) -> dict[str, str]:
        """All that the compressed index depends on."""
        return {"vectors": self.vectors_sha256, "trained": self.trained_sha256}

    @property
    def key(self) -> str:
        """The same for jobs whose output is the same: shards may hold the same vectors."""
        return key_of(self.inputs)


def shard_folder(number: int) -> str:
    """The shard's folder in the output of a split."""
    return f"shard-{number:04d}"


def split_shards(
    job: SplitJob, folder: Path, numbers: Collection[int], report: Callable[[int], None]
) -> None:
    """Write the passages, vectors and ids of shards `numbers` in one pass over the corpus.

    Each shard's files go to a folder of its own in `folder`. `report` is told the passages passed.
    """
    shards = job.shards()
    vectors = open_vectors(job.vectors, job.dim)
    columns = job.staged.metadata_columns
    places = {number: folder / shard_folder(number) for number in numbers}
    report(0)
    with ExitStack() as stack:
        passage_files: dict[int, PassageWriter] = {}
        vector_files: dict[int, VectorWriter] = {}
        for number, place in places.items():
            shutil.rmtree(place, ignore_errors=True)  # of a worker that died at this
            place.mkdir()
            passages_to = PassageWriter(place / "passages.arrow", columns)
            passage_files[number] = stack.enter_context(passages_to)
            vectors_to = VectorWriter(place / "vectors.faiss", job.dim, job.metric)
            vector_files[number] = stack.enter_context(vectors_to)
        start = 0
        for batch in job.staged.batches():
            end = start + batch.num_rows
            for number in np.unique(shards[start:end]).tolist():
                if number not in places:
                    continue
                rows = np.flatnonzero(shards[start:end] == number)
                ordinals = job.first_ordinal + start + rows
                taken = batch.take(pa.array(rows))
                passage_files[number].write(_with_ordinals(taken, ordinals, columns))
                vector_files[number].write(vectors[start:end][rows])
            start = end
            report(start)
    for number, place in places.items():
        write_ids(place / "ids.arrow", job.staged.hashes[shards == number])


def index_shard(job: IndexJob, trained: Any) -> tuple[Output, bool]:
    """The compressed index of a shard's stored vectors, and whether it was there already.

    `trained` is the empty index of `job.trained_sha256`, and stays empty.
    """
    stored = read_stored(job.vectors, job.dim)
    staging = Staging(index_dir=job.index_dir)
    return staging.make("index", job.inputs, partial(_index_segment, trained, stored))


def _with_ordinals(
    batch: pa.RecordBatch,
    ordinals: npt.NDArray[np.int64],
    metadata_columns: Mapping[str, MetadataType],
) -> pa.RecordBatch:
    """Staged rows as passages.arrow has them: ordinals first, metadata in typed columns."""
    schema = passage_schema(metadata_columns)
    columns = [pa.array(ordinals), *(batch.column(name) for name in ("id", "title", "text"))]
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
    write_index(index, folder / INDEX_FILE)
