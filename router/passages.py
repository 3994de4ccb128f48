"""Passages as columns, shared by all the queries that one reply answers. Values only.

A shared call's reply is taken apart once, whoever rides; each rider gets the same columns and the
place where its own passages begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.internal.v1 import shard_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class TextColumn:
    """Texts laid end to end: text i is data[offsets[i]:offsets[i + 1]] in UTF-8.

    The offsets are Python's numbers, because they are read one by one.
    """

    data: bytes
    offsets: Sequence[int]

    def __getitem__(self, place: int) -> str:
        # bytes that are no text are a shard's fault, and must not cost the caller the whole answer
        return self.data[self.offsets[place] : self.offsets[place + 1]].decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageColumns:
    """Passages as columns; one that was not asked for is None, or empty for metadata."""

    ids: TextColumn
    titles: TextColumn | None
    texts: TextColumn | None
    metadata: Sequence[pb.Metadata]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageJob:
    """Places of passages in a shard: (n,) segments and rows."""

    segments: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A job's passages: in `columns`, from `start` on, in the order asked for."""

    columns: PassageColumns
    start: int
