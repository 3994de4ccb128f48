"""Fill the shards' segments: the staged corpus is parted among them, then each is indexed.

Rule: both are stages whose outputs are kept; segments.py says what they hold, the executor where
they are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shard_server.building.executor import HERE, Executor
from shard_server.building.segments import INDEX_FILE, IndexJob, SplitJob, shard_folder
from shard_server.building.staging import Output, Staging
from shard_server.building.train import Trained
from shard_server.building.workspace import Workspace
from shoal.formats.manifest import Segment, SegmentFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledSegment:
    """A shard's new segment, not yet among the index's data; `index` is None for Flat."""

    number: int
    n_rows: int
    split: Output
    index: Output | None


def fill_shards(
    job: SplitJob,
    trained: Trained | None,
    staging: Staging,
    *,
    vectors_from: Mapping[str, Any],
    executor: Executor = HERE,
) -> list[FilledSegment]:
    """One segment a shard, rows in ingestion order; a shard without passages has n_rows 0.

    `vectors_from` is what the vectors depend on.
    """
    n_passages = job.staged.n_passages

    def report(done: int) -> None:
        staging.progress("fill", done, 2 * n_passages)

    def write(folder: Path) -> None:
        executor.split(job, folder, report)

    inputs = {
        "corpus": job.staged.digest,
        "vectors": dict(vectors_from),
        "n_shards": job.n_shards,
        "metric": job.metric,
        "first_ordinal": job.first_ordinal,
        "metadata_columns": job.staged.metadata_columns,
    }
    split, was_there = staging.make("split", inputs, write)
    if was_there:
        staging.progress("kept partition", n_passages, n_passages)
    n_rows = np.bincount(job.shards(), minlength=job.n_shards).tolist()
    return _index(trained, split, n_rows, staging, executor)


def adopt_segment(workspace: Workspace, segment: FilledSegment) -> tuple[Segment, ...]:
    """The segment among the index's files; none where no passage fell to the shard."""
    if not segment.n_rows:
        return ()
    folder = shard_folder(segment.number)
    vectors, passages, ids = (
        workspace.publish(segment.split, f"{folder}/{name}")
        for name in ("vectors.faiss", "passages.arrow", "ids.arrow")
    )
    index = workspace.publish(segment.index, INDEX_FILE) if segment.index else None
    files = SegmentFiles(index=index, vectors=vectors, passages=passages, ids=ids)
    return (Segment(n_rows=segment.n_rows, n_live=segment.n_rows, files=files),)


def _index(
    trained: Trained | None,
    split: Output,
    n_rows: Sequence[int],
    staging: Staging,
    executor: Executor,
) -> list[FilledSegment]:
    """Every shard's compressed index."""
    n_total = sum(n_rows)
    found: dict[int, Output] = {}
    done = n_kept = 0
    if trained is not None:
        jobs = [
            _index_job(trained, split, number, count)
            for number, count in enumerate(n_rows)
            if count
        ]
        for job, index, was_there in executor.index(jobs, trained):
            found[job.number] = index
            n_kept += job.n_rows * was_there
            done += job.n_rows
            staging.progress("fill", n_total + done, 2 * n_total)
    if done < n_total:  # Flat has none
        staging.progress("fill", 2 * n_total, 2 * n_total)
    if n_kept:
        staging.progress("kept fill", n_kept, n_kept)
    staging.drop_others("index", {index.folder.name for index in found.values()})
    return [
        FilledSegment(number=number, n_rows=count, split=split, index=found.get(number))
        for number, count in enumerate(n_rows)
    ]


def _index_job(trained: Trained, split: Output, number: int, n_rows: int) -> IndexJob:
    name = f"{shard_folder(number)}/vectors.faiss"
    return IndexJob(
        number=number,
        n_rows=n_rows,
        index_dir=split.index_dir,
        vectors=split.path(name),
        vectors_sha256=split.files[name].sha256,
        trained_sha256=trained.sha256,
        dim=trained.index.d,
    )
