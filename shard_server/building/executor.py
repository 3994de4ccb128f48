"""Where the long stages of a build run: on this machine, or wherever an `Executor` takes them.

Rule: an executor decides where and in which order, never what: chunks, shards and files are those
of chunk_encode.py and segments.py, so that an index is the same whoever built it, and either goes
on with what the other left.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from shard_server.building.bring import GivenVectors
from shard_server.building.chunk_encode import encode_chunks
from shard_server.building.chunk_file import AnyRows, Chunk
from shard_server.building.segments import IndexJob, SplitJob, index_shard, split_shards
from shard_server.building.stage import PassageEncode
from shard_server.building.staging import Output
from shard_server.building.train import Trained


class Executor(Protocol):
    """Runs jobs; failures are those of the functions that do them."""

    def encode(
        self,
        corpus: Path,
        chunks: Sequence[Chunk],
        encode: PassageEncode,
        *,
        keep_float32: bool = False,
    ) -> Iterator[tuple[Chunk, AnyRows]]:
        """Each of the chunks with its vectors, as it is done, in any order: float16, or the
        encoder's own with `keep_float32`.

        Raises:
            ConfigError: it can't bring float32.
        """

    def split(self, job: SplitJob, folder: Path, report: Callable[[int], None]) -> None:
        """Make every shard's files in `folder`; `report` is told the passages done so far."""

    def index(
        self, jobs: Sequence[IndexJob], trained: Trained
    ) -> Iterator[tuple[IndexJob, Output, bool]]:
        """Each job's compressed index, and whether it was there, as it is done, in any order."""


class Here:
    """This process, one thing at a time."""

    def encode(
        self,
        corpus: Path,
        chunks: Sequence[Chunk],
        encode: PassageEncode,
        *,
        keep_float32: bool = False,
    ) -> Iterator[tuple[Chunk, AnyRows]]:
        """In order."""
        if not isinstance(encode, GivenVectors):
            yield from encode_chunks(corpus, chunks, encode, keep_float32=keep_float32)
            return
        for chunk in chunks:
            encode.skip_to(chunk.start)
            yield from encode_chunks(corpus, (chunk,), encode, keep_float32=keep_float32)

    def split(self, job: SplitJob, folder: Path, report: Callable[[int], None]) -> None:
        """All shards in one pass over the corpus."""
        split_shards(job, folder, job.numbers(), report)

    def index(
        self, jobs: Sequence[IndexJob], trained: Trained
    ) -> Iterator[tuple[IndexJob, Output, bool]]:
        """In order; memory holds one at a time."""
        for job in jobs:
            yield job, *index_shard(job, trained.index)


HERE = Here()
