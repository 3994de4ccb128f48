"""Fault 8: 5,000 replies with random damage: each is refused, or can't be told from a true one."""

import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from router.shard_client import ShardClient
from router.shard_reply import InvalidReplyError, SearchSettings
from shoal.internal.v1 import shard_pb2 as pb

N_QUERIES, K, NEXT_ORDINAL = 3, 6, 1_000
FIELDS = frozenset({"title", "text"})
SETTINGS = SearchSettings(
    index="books",
    version=7,
    k=K,
    n_probe=4,
    candidates=10,
    exact=False,
    priority=0,
    fields=FIELDS,
    next_ordinal=NEXT_ORDINAL,
)
TYPES = {"ordinals": "<i8", "segments": "<u4", "rows": "<u4", "scores": "<f4"}


def true_reply(chance: random.Random) -> pb.SearchShardResponse:
    ordinals = np.array([chance.sample(range(NEXT_ORDINAL), K) for _ in range(N_QUERIES)])
    scores = np.sort([[chance.gauss(0, 9) for _ in range(K)] for _ in range(N_QUERIES)])[:, ::-1]
    reply = pb.SearchShardResponse(
        version=7,
        n_queries=N_QUERIES,
        width=K,
        ordinals=ordinals.astype("<i8").tobytes(),
        segments=np.zeros(ordinals.shape, "<u4").tobytes(),
        rows=ordinals.astype("<u4").tobytes(),
        scores=scores.astype("<f4").tobytes(),
    )
    texts = [f"passage {ordinal}".encode() for ordinal in ordinals.ravel()]
    offsets = np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    for column in (reply.passages.ids, reply.passages.titles, reply.passages.texts):
        column.data, column.offsets = b"".join(texts), offsets
    return reply


def mutate_value(reply: pb.SearchShardResponse, chance: random.Random) -> None:
    """Another value in one place of a column: one that a bug would write."""
    name = chance.choice(list(TYPES))
    packed, item = getattr(reply, name), np.dtype(TYPES[name])
    values = np.frombuffer(packed[: len(packed) // item.itemsize * item.itemsize], item).copy()
    if not len(values):
        return
    place = chance.randrange(len(values))
    if name == "scores":
        values[place] = chance.choice([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, values[0]])
    elif name == "ordinals":
        values[place] = chance.choice([-1, -9, NEXT_ORDINAL, 2**62, int(values[0]), 5])
    else:
        values[place] = chance.choice([0, 2**32 - 1])
    setattr(reply, name, values.tobytes())


def mutate_bytes(reply: pb.SearchShardResponse, chance: random.Random) -> None:
    """A column's bytes flipped, cut, doubled or shuffled."""
    passages = reply.passages
    owner, name = chance.choice(
        [
            *((reply, name) for name in TYPES),
            *((c, n) for c in (passages.ids, passages.texts) for n in ("data", "offsets")),
        ]
    )
    damaged = bytearray(getattr(owner, name))
    match chance.randrange(4):
        case 0 if damaged:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        case 1:
            del damaged[chance.randrange(len(damaged) + 1) :]
        case 2:
            damaged += damaged[: chance.randrange(len(damaged) + 1)]
        case _:
            chance.shuffle(damaged)
    setattr(owner, name, bytes(damaged))


def mutate_number(reply: pb.SearchShardResponse, chance: random.Random) -> None:
    """Another shape or version."""
    name = chance.choice(["version", "n_queries", "width"])
    setattr(reply, name, chance.choice([0, 1, 2, 5, 7, 2**31, 2**32 - 1]))


def mutate_wire(reply: pb.SearchShardResponse, chance: random.Random) -> None:
    """Damage below the message: what still parses is a reply."""
    damaged = bytearray(reply.SerializeToString())
    for _ in range(chance.randint(1, 4) if damaged else 0):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    try:
        reply.ParseFromString(bytes(damaged))
    except DecodeError:
        reply.Clear()


MUTATIONS = (mutate_value, mutate_bytes, mutate_number, mutate_wire)


class Stub:
    """Answers every search with `reply`."""

    reply: pb.SearchShardResponse

    async def SearchShard(self, request, timeout, metadata):  # noqa: ASYNC109 -- gRPC's signature
        return self.reply


@pytest.fixture
async def lying():
    """A client of a shard whose replies the test makes up."""
    client = ShardClient("127.0.0.1:1", inline_hits=1_000)
    client._stub = Stub()
    yield client
    await client.close()


async def search(client: ShardClient) -> list:
    matrices = [np.zeros((1, 4), np.float32), np.zeros((2, 4), np.float32)]
    return await client.search(SETTINGS, matrices, 1.0)


async def test_a_true_reply_is_taken(lying):
    """The base of the mutations is itself no lie."""
    lying._stub.reply = true_reply(random.Random(0))
    first, second = await search(lying)
    assert (len(first.hits.ordinals), len(second.hits.ordinals)) == (1, 2)


async def test_no_mutated_reply_breaks_the_contract(lying):
    """Either InvalidReplyError and nothing else, or hits that could be merged without harm."""
    n_refused = 0
    for seed in range(5_000):
        chance = random.Random(seed)
        lying._stub.reply = reply = true_reply(chance)
        for _ in range(chance.choice([1, 1, 2])):
            chance.choice(MUTATIONS)(reply, chance)
        try:
            parts = await search(lying)
        except InvalidReplyError:
            n_refused += 1
            continue
        for part, n_queries in zip(parts, (1, 2), strict=True):
            check(part, n_queries, seed)
    assert n_refused > 2_000, "the mutations do damage"


def check(part, n_queries: int, seed: int) -> None:
    """What the merge relies on, looked at a query at a time."""
    hits = part.hits
    assert hits.ordinals.shape == hits.scores.shape == hits.segments.shape == hits.rows.shape
    assert len(hits.ordinals) == n_queries, seed
    assert hits.ordinals.shape[1] <= K, seed
    place = int(part.first_hits[0])
    for ordinals, scores in zip(hits.ordinals.tolist(), hits.scores.tolist(), strict=True):
        n_hits = sum(ordinal >= 0 for ordinal in ordinals)
        found = ordinals[:n_hits]
        assert all(ordinal < 0 for ordinal in ordinals[n_hits:]), seed
        assert all(0 <= ordinal < NEXT_ORDINAL for ordinal in found), seed
        assert len(set(found)) == n_hits, seed
        assert np.isfinite(scores[:n_hits]).all(), seed
        assert scores[:n_hits] == sorted(scores[:n_hits], reverse=True), seed
        for _ in range(n_hits if part.passages is not None else 0):
            assert isinstance(part.passages.texts[place], str), seed
            assert isinstance(part.passages.ids[place], str), seed
            place += 1
