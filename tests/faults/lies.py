"""Replies that can't be true: each function spoils a shard's good reply in one way."""

import random
from collections.abc import Callable

import numpy as np

from shoal.internal.v1 import shard_pb2 as pb

Reply = pb.SearchShardResponse


def _scores(reply: Reply) -> np.ndarray:
    return np.frombuffer(reply.scores, "<f4").copy()


def _ordinals(reply: Reply) -> np.ndarray:
    return np.frombuffer(reply.ordinals, "<i8").copy()


def unsorted(reply: Reply, chance: random.Random) -> None:
    scores = _scores(reply).reshape(reply.n_queries, -1)
    reply.scores = scores[:, ::-1].tobytes()


def not_a_number(reply: Reply, chance: random.Random) -> None:
    scores = _scores(reply)
    scores[chance.randrange(len(scores))] = chance.choice([np.nan, np.inf, -np.inf])
    reply.scores = scores.tobytes()


def the_same_twice(reply: Reply, chance: random.Random) -> None:
    ordinals = _ordinals(reply)
    ordinals[1] = ordinals[0]
    reply.ordinals = ordinals.tobytes()


def no_such_ordinal(reply: Reply, chance: random.Random) -> None:
    """A passage that the whole index doesn't have."""
    ordinals = _ordinals(reply)
    ordinals[0] = 1 << chance.randrange(32, 62)
    reply.ordinals = ordinals.tobytes()


def too_many(reply: Reply, chance: random.Random) -> None:
    n_more = chance.randrange(1, 5)
    reply.width += n_more
    filler = reply.n_queries * n_more
    reply.ordinals += b"\1" * 8 * filler
    reply.segments += bytes(4 * filler)
    reply.rows += bytes(4 * filler)
    reply.scores += np.full(filler, -1e9, "<f4").tobytes()


def another_version(reply: Reply, chance: random.Random) -> None:
    reply.version += chance.randrange(1, 9)


def more_queries(reply: Reply, chance: random.Random) -> None:
    reply.n_queries += 1


def a_huge_width(reply: Reply, chance: random.Random) -> None:
    reply.width = 2**32 - 1


def cut_columns(reply: Reply, chance: random.Random) -> None:
    name = chance.choice(["ordinals", "segments", "rows", "scores"])
    setattr(reply, name, getattr(reply, name)[: -chance.randrange(1, 9)])


def cut_texts(reply: Reply, chance: random.Random) -> None:
    column = chance.choice([reply.passages.ids, reply.passages.titles, reply.passages.texts])
    column.offsets = column.offsets[: -chance.randrange(1, 9)]


def offsets_out_of_order(reply: Reply, chance: random.Random) -> None:
    offsets = np.frombuffer(reply.passages.texts.offsets, "<u4").copy()
    offsets[1] = 2**31
    reply.passages.texts.offsets = offsets.tobytes()


LIES: tuple[Callable[[Reply, random.Random], None], ...] = (
    unsorted,
    not_a_number,
    the_same_twice,
    no_such_ordinal,
    too_many,
    another_version,
    more_queries,
    a_huge_width,
    cut_columns,
    cut_texts,
    offsets_out_of_order,
)
