"""Replies that can't be true are dropped whole: never a wrong hit."""

import numpy as np
import pytest
from fakes.asking import VECTOR, check_partial, request
from fakes.cluster import hits_of, running

from shoal.v1 import search_pb2 as pb


def _swap_scores(reply):
    scores = np.frombuffer(reply.scores, "<f4").reshape(reply.n_queries, -1)
    reply.scores = scores[:, ::-1].tobytes()


def _nan(reply):
    scores = np.frombuffer(reply.scores, "<f4").copy()
    scores[0] = np.nan
    reply.scores = scores.tobytes()


def _infinite(reply):
    scores = np.frombuffer(reply.scores, "<f4").copy()
    scores[0] = np.inf
    reply.scores = scores.tobytes()


def _twice(reply):
    ordinals = np.frombuffer(reply.ordinals, "<i8").copy()
    ordinals[-1] = ordinals[0]
    reply.ordinals = ordinals.tobytes()


def _foreign(reply):
    ordinals = np.frombuffer(reply.ordinals, "<i8").copy()
    ordinals[-1] = 10**6
    reply.ordinals = ordinals.tobytes()


def _hole(reply):
    ordinals = np.frombuffer(reply.ordinals, "<i8").copy()
    ordinals[0] = -1
    reply.ordinals = ordinals.tobytes()


def _too_many(reply):
    reply.width += 1
    reply.ordinals += b"\1" * 8
    reply.segments += b"\0" * 4
    reply.rows += b"\0" * 4
    reply.scores += np.float32(-1e9).tobytes()


def _falling_offsets(reply):
    offsets = np.frombuffer(reply.passages.texts.offsets, "<u4").copy()
    offsets[1] = 2**31
    reply.passages.texts.offsets = offsets.tobytes()


LIES = {
    "unsorted": _swap_scores,
    "nan": _nan,
    "infinite": _infinite,
    "the same passage twice": _twice,
    "a passage that the version lacks": _foreign,
    "a filler before hits": _hole,
    "more hits than asked for": _too_many,
    "another version": lambda reply: setattr(reply, "version", 2),
    "more queries": lambda reply: setattr(reply, "n_queries", 2),
    "a huge width": lambda reply: setattr(reply, "width", 2**32 - 1),
    "short columns": lambda reply: setattr(reply, "rows", reply.rows[:-4]),
    "ragged columns": lambda reply: setattr(reply, "rows", reply.rows[:-1]),
    "offsets out of order": _falling_offsets,
    "offsets cut": lambda r: setattr(r.passages.ids, "offsets", r.passages.ids.offsets[:-4]),
    "data cut": lambda r: setattr(r.passages.texts, "data", r.passages.texts.data[:-1]),
    "no ids": lambda reply: reply.passages.ClearField("ids"),
    "no text": lambda reply: reply.passages.ClearField("texts"),
    "metadata of fewer": lambda reply: reply.passages.metadata.pop(),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_shard_is_never_merged(tmp_path, lie):
    """A reply that can't be true is dropped whole, and told as INVALID_REPLY."""
    async with running(tmp_path) as cluster:
        cluster.shards[1][0].script.mutate = LIES[lie]
        answer = await cluster.search(request(min_coverage=0.2))
        check_partial(cluster, answer, pb.OUTCOME_INVALID_REPLY)


async def test_text_that_is_not_utf8_breaks_no_call(tmp_path):
    """A shard's broken bytes are a shard's fault, not an INTERNAL error."""
    async with running(tmp_path) as cluster:

        def garble(reply):
            reply.passages.texts.data = b"\xff" * len(reply.passages.texts.data)

        cluster.shards[1][0].script.mutate = garble
        answer = await cluster.search(request(min_coverage=0.2))
        assert len(answer.results[0].hits) == 5


async def test_lying_passages_drop_the_shard(tmp_path):
    """Passage columns of the wrong size are no passages."""
    async with running(tmp_path) as cluster:

        def cut(reply):
            reply.passages.ids.offsets = reply.passages.ids.offsets[:-4]

        cluster.shards[1][0].script.mutate_passages = cut
        answer = await cluster.search(request(k=90, min_coverage=0.2))
        assert answer.shards[1].outcome == pb.OUTCOME_INVALID_REPLY
        assert hits_of(answer.results[0]) == cluster.corpus.search(VECTOR[0], 90, shards=[0])


async def test_passages_of_another_version_are_not_mixed_in(tmp_path):
    """A shard that moved on between search and fetch gives no text for the old version's hits."""
    async with running(tmp_path) as cluster:
        script = cluster.shards[1][0].script
        script.mutate_passages = lambda reply: setattr(reply, "version", 2)
        answer = await cluster.search(request(k=90, min_coverage=0.2))
        assert answer.shards[1].outcome == pb.OUTCOME_INVALID_REPLY
