"""Shard replies that were changed on the way: refused, or true to the contract; never a crash."""

import numpy as np
from fakes.corpus import Corpus
from fakes.shards import FakeShard
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from router.merge import merge_top_k
from router.reply import _fill
from router.shard_reply import InvalidReplyError, SearchSettings, split_reply
from shoal import vectors
from shoal.internal.v1 import shard_pb2 as pb
from shoal.v1 import search_pb2

SETTINGS = SearchSettings(
    index="books",
    version=1,
    k=3,
    n_probe=0,
    candidates=0,
    exact=True,
    priority=0,
    fields=frozenset({"title", "text", "metadata"}),
)
SIZES = [2, 1]


def true_reply() -> pb.SearchShardResponse:
    rng = np.random.default_rng(2)
    request = pb.SearchShardRequest(
        index="books",
        version=1,
        query_vectors=vectors.to_proto(rng.integers(-4, 5, (3, 8)).astype(np.float32)),
        k=3,
    )
    request.inline_fields.paths.extend(["id", "title", "text", "metadata"])
    return FakeShard(Corpus(n_passages=40), 0)._search(request)


REPLY = true_reply()
BYTES = REPLY.SerializeToString()


def check_contract(reply: pb.SearchShardResponse) -> None:
    """What the router merges keeps every promise; what can't is InvalidReplyError."""
    try:
        parts = split_reply(reply, SETTINGS, SIZES)
    except InvalidReplyError:
        return
    for size, part in zip(SIZES, parts, strict=True):
        hits = part.hits
        assert hits.ordinals.shape == hits.scores.shape == hits.rows.shape
        assert hits.ordinals.shape[0] == size
        assert hits.ordinals.shape[1] <= SETTINGS.k
        present = hits.ordinals >= 0
        assert np.isfinite(hits.scores[present]).all()
        for ordinals, scores, is_there in zip(hits.ordinals, hits.scores, present, strict=True):
            real = ordinals[is_there].tolist()
            assert (ordinals[: len(real)] >= 0).all()
            assert len(set(real)) == len(real)
            assert sorted(scores[is_there].tolist(), reverse=True) == scores[is_there].tolist()
        merge_top_k([hits], 3)
        if part.passages is not None:
            for first, n_hits in zip(part.first_hits, present.sum(axis=1), strict=True):
                for place in range(int(first), int(first + n_hits)):
                    _fill(search_pb2.Passage(), part.passages, place)


def test_the_true_reply_is_taken():
    """Unchanged it passes, and its passages are split by query."""
    parts = split_reply(REPLY, SETTINGS, SIZES)
    assert [len(part.hits.ordinals) for part in parts] == SIZES
    for part in parts:
        for ordinals, first in zip(part.hits.ordinals, part.first_hits, strict=True):
            passage = search_pb2.Passage()
            _fill(passage, part.passages, int(first))
            assert passage.id == f"p{ordinals[0]}"
            assert passage.metadata["page"].int_value == ordinals[0]
    check_contract(REPLY)


@settings(max_examples=1_000)
@given(
    st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_changed_bytes_never_break_the_router(changes):
    """Any bytes of the reply replaced: whatever still parses is refused or keeps the contract."""
    data = bytearray(BYTES)
    for place, value in changes:
        data[place] = value
    try:
        reply = pb.SearchShardResponse.FromString(bytes(data))
    except DecodeError:
        return
    check_contract(reply)


COLUMN = st.binary(max_size=40) | st.sampled_from(
    [REPLY.ordinals, REPLY.segments, REPLY.rows, REPLY.scores]
)


@settings(max_examples=300)
@given(st.data())
def test_changed_fields_never_break_the_router(data):
    """Any column or size replaced by another of any length."""
    reply = pb.SearchShardResponse()
    reply.CopyFrom(REPLY)
    for name in data.draw(st.sets(st.sampled_from(["ordinals", "segments", "rows", "scores"]))):
        setattr(reply, name, data.draw(COLUMN))
    for name in data.draw(st.sets(st.sampled_from(["n_queries", "width"]))):
        setattr(reply, name, data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 4)))
    for name in data.draw(st.sets(st.sampled_from(["ids", "titles", "texts"]))):
        column = getattr(reply.passages, name)
        part = data.draw(st.sampled_from(["data", "offsets"]))
        setattr(column, part, data.draw(COLUMN))
    check_contract(reply)
