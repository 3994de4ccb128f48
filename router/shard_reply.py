"""A shard's replies, held to the contract and made into values. The wire ends here.

A reply that breaks it (sizes that disagree, scores out of order, NaN) is refused as
InvalidReplyError, so that it can never be merged.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from router.merge import ShardHits
from router.passages import PassageColumns, TextColumn
from shoal.errors import ShoalError
from shoal.internal.v1 import shard_pb2 as pb
from shoal.v1 import search_pb2


class InvalidReplyError(ShoalError):
    """A shard's reply broke the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """What every query of a shared call agrees in.

    `next_ordinal`: ordinals from here on are no passages of the version; 0 where that isn't known.
    """

    index: str
    version: int
    k: int
    n_probe: int
    candidates: int
    exact: bool
    priority: int
    fields: frozenset[str]
    next_ordinal: int = 0


class ShardReply(NamedTuple):
    """One job's share of a shard's answer.

    `passages`, where they came along, are those of the whole call's hits; query i of this job has
    its own from `first_hits[i]` on, best first. `arrived_s` is on `time.monotonic()`;
    `search_s` is how long the shard searched for the whole call, by its own word.
    """

    hits: ShardHits
    is_exact: bool
    arrived_s: float
    passages: PassageColumns | None
    first_hits: npt.NDArray[np.int64]
    search_s: float = 0.0


def split_reply(
    reply: pb.SearchShardResponse, settings: SearchSettings, sizes: Sequence[int]
) -> list[ShardReply]:
    """One reply for each job of a shared call, of `sizes` queries each, in their order.

    Raises:
        InvalidReplyError: a reply that can't be true.
    """
    hits = _checked_hits(reply, settings, sum(sizes))
    is_exact = reply.accuracy == search_pb2.ACCURACY_EXACT
    columns: PassageColumns | None = None
    n_hits = np.count_nonzero(hits.ordinals >= 0, axis=1)
    first_hits = np.cumsum(n_hits) - n_hits
    if reply.HasField("passages"):
        columns = passage_columns(reply.passages, int(n_hits.sum()), settings.fields)
    arrived_s = time.monotonic()
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [
        ShardReply(
            hits=ShardHits(
                ordinals=hits.ordinals[start : start + size],
                segments=hits.segments[start : start + size],
                rows=hits.rows[start : start + size],
                scores=hits.scores[start : start + size],
            ),
            is_exact=is_exact,
            arrived_s=arrived_s,
            passages=columns,
            first_hits=first_hits[start : start + size],
            search_s=reply.search_ms / 1e3,
        )
        for start, size in zip(starts, sizes, strict=True)
    ]


def _checked_hits(
    reply: pb.SearchShardResponse, settings: SearchSettings, n_queries: int
) -> ShardHits:
    if reply.version != settings.version:
        raise InvalidReplyError(f"version {reply.version} instead of {settings.version}")
    if reply.n_queries != n_queries or reply.width > settings.k:
        raise InvalidReplyError(
            f"{reply.n_queries} x {reply.width} hits for {n_queries} queries of k={settings.k}"
        )
    shape = (n_queries, reply.width)
    try:
        hits = ShardHits(
            ordinals=np.frombuffer(reply.ordinals, dtype="<i8").reshape(shape),
            segments=np.frombuffer(reply.segments, dtype="<u4").reshape(shape),
            rows=np.frombuffer(reply.rows, dtype="<u4").reshape(shape),
            scores=np.frombuffer(reply.scores, dtype="<f4").reshape(shape),
        )
    except ValueError as failure:
        raise InvalidReplyError(f"columns that are not {shape[0]} x {shape[1]}") from failure
    present = hits.ordinals >= 0
    if not np.isfinite(hits.scores[present]).all():
        raise InvalidReplyError("scores that are not finite")
    falling = hits.scores[:, :-1] >= hits.scores[:, 1:]
    if not (falling | ~present[:, 1:]).all() or (present[:, 1:] & ~present[:, :-1]).any():
        raise InvalidReplyError("hits that are not in order")
    if settings.next_ordinal and (hits.ordinals >= settings.next_ordinal).any():
        raise InvalidReplyError(f"a passage that version {settings.version} does not have")
    ordered = np.sort(hits.ordinals, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise InvalidReplyError("the same passage twice for one query")
    return hits


def passage_columns(
    message: pb.PassageColumns, n_passages: int, fields: frozenset[str]
) -> PassageColumns:
    """The passages of a reply, with the fields that were asked for.

    Raises:
        InvalidReplyError: another number of them, or a field that is missing.
    """
    if "title" in fields and not message.HasField("titles"):
        raise InvalidReplyError("passages without titles")
    if "text" in fields and not message.HasField("texts"):
        raise InvalidReplyError("passages without texts")
    if message.metadata and len(message.metadata) != n_passages:
        raise InvalidReplyError(f"metadata of {len(message.metadata)} passages for {n_passages}")
    return PassageColumns(
        ids=_text_column(message.ids, n_passages),
        titles=_text_column(message.titles, n_passages) if message.HasField("titles") else None,
        texts=_text_column(message.texts, n_passages) if message.HasField("texts") else None,
        metadata=message.metadata,
    )


def _text_column(message: pb.TextColumn, n_texts: int) -> TextColumn:
    if len(message.offsets) != 4 * (n_texts + 1):
        raise InvalidReplyError(f"{len(message.offsets)} bytes of offsets for {n_texts} texts")
    offsets = np.frombuffer(message.offsets, dtype="<u4")
    if offsets[-1] > len(message.data) or (offsets[1:] < offsets[:-1]).any():
        raise InvalidReplyError("text offsets that are not in order")
    return TextColumn(data=message.data, offsets=offsets.tolist())
