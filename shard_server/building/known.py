"""Which passages of a staged corpus an index has already, by id.

Rule: hashes propose, the passages' own ids decide, and a file is proved before it is read. Memory
holds one segment's mapped hashes and the suspects.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from shard_server.building.partition import shards_of
from shard_server.building.stage import StagedCorpus
from shoal.formats.deleted import Rows, read_deleted
from shoal.formats.ids import IdFile
from shoal.formats.manifest import Manifest, Segment
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPassage:
    """A staged passage, told of at `where`, whose id lies in the index already."""

    id: str
    where: str
    shard: int
    segment: int
    row: int


class _SegmentIds(NamedTuple):
    ids: IdFile
    passages: PassageFile
    deleted: Rows | None


def find_known(
    index_dir: Path, manifest: Manifest, staged: StagedCorpus
) -> tuple[KnownPassage, ...]:
    """The passages of `staged` whose ids `manifest` has, alive, in the order of the corpus.

    Raises:
        IndexFormatError: a file of the index that doesn't verify.
    """
    shards = shards_of(staged.hashes, len(manifest.shards))
    suspected = np.zeros(staged.n_passages, dtype=bool)
    files: dict[int, list[_SegmentIds]] = {}
    for number, shard in enumerate(manifest.shards):
        files[number] = [_open(index_dir, segment) for segment in shard.segments]
        mine = np.flatnonzero(shards == number)
        for segment in files[number]:
            suspected[mine] |= segment.ids.contains(staged.hashes[mine])
    return tuple(
        KnownPassage(id=passage_id, where=where, shard=shard, segment=segment, row=row)
        for place, passage_id, where in _read(staged, np.flatnonzero(suspected))
        for shard in (int(shards[place]),)
        for segment, row in _find(files[shard], passage_id)
    )


def _open(index_dir: Path, segment: Segment) -> _SegmentIds:
    ids = IdFile.open(check_file(index_dir, segment.files.ids))
    passages = PassageFile.open(check_file(index_dir, segment.files.passages))
    return _SegmentIds(ids, passages, deleted_rows(index_dir, segment))


def deleted_rows(index_dir: Path, segment: Segment) -> Rows | None:
    """The rows of a segment that are deleted already: bool (n_rows,), None where none is."""
    entry = segment.files.deleted
    if entry is None:
        return None
    path = check_file(index_dir, entry)
    return read_deleted(path, n_rows=segment.n_rows, n_live=segment.n_live)


def _find(segments: list[_SegmentIds], passage_id: str) -> Iterator[tuple[int, int]]:
    for number, segment in enumerate(segments):
        rows = segment.ids.find(passage_id)
        if segment.deleted is not None:
            rows = [row for row in rows if not segment.deleted[row]]
        texts = segment.passages.take(np.array(rows, dtype=np.int64), ("id",))["id"]
        ends = texts.offsets.tolist()
        for row, start, end in zip(rows, ends[:-1], ends[1:], strict=True):
            if texts.data[start:end].decode() == passage_id:
                yield number, row


def _read(staged: StagedCorpus, places: np.ndarray) -> Iterator[tuple[int, str, str]]:
    """Place, id and `where` of the staged passages at `places`, ascending."""
    start = 0
    for batch in staged.batches():
        end = start + batch.num_rows
        mine = places[(places >= start) & (places < end)]
        found = batch.take(pa.array(mine - start))
        columns = (mine.tolist(), *(found.column(n).to_pylist() for n in ("id", "where")))
        yield from zip(*columns, strict=True)
        start = end
