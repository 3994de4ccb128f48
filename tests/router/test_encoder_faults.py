"""An encoder that dies, hangs, changes or lies: text fails, vectors are searched."""

import asyncio

import grpc
import numpy as np
import pytest
from fakes.asking import refusal, request
from fakes.cluster import eventually, hits_of, never_late, running, text_request
from fakes.corpus import vector_of

from shoal.errors import OverloadedError
from shoal.rpc.status import error_of


async def test_without_an_encoder_vectors_still_work(tmp_path):
    """Encoder down: text is UNAVAILABLE at once, vectors are answered, and text comes back."""
    async with running(tmp_path, max_wait_s=60.0) as cluster:
        encoder = cluster.encoders[0]
        await encoder.stop()
        async with asyncio.timeout(50.0):  # it waits for no deadline, and for no room
            for _ in range(2):
                failure = await refusal(cluster.search(text_request("a"), timeout_s=100.0))
                assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert (await cluster.search(request())).coverage == 1.0
        await encoder.start()
        await eventually(lambda: cluster.registry.served.encoders[0].usable)
        answer = await cluster.search(text_request("a", k=3))
        assert hits_of(answer.results[0]) == cluster.corpus.search(vector_of("a"), 3)


async def test_another_encoder_answers_for_a_full_or_dead_one(tmp_path, monkeypatch):
    """Two encoders, one refuses and then dies: no question fails."""
    never_late(monkeypatch)
    async with running(tmp_path, n_encoders=2) as cluster:
        cluster.encoders[0].raises = OverloadedError("full", retry_after_s=0.1)
        for _ in range(6):
            assert (await cluster.search(text_request("a"))).coverage == 1.0
        cluster.encoders[1].raises = cluster.encoders[0].raises
        failure = await refusal(cluster.search(text_request("a")))
        assert isinstance(error_of(failure), OverloadedError)
        cluster.encoders[1].raises = None
        await cluster.encoders[0].stop()
        for _ in range(6):
            assert (await cluster.search(text_request("a"))).coverage == 1.0


async def test_another_model_is_refused(tmp_path):
    """An encoder that is not the index's: FAILED_PRECONDITION, and vectors work."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].fingerprint = "e" * 64  # swapped since the router last asked
        failure = await refusal(cluster.search(text_request("a")))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        served = cluster.registry.served
        await eventually(lambda: served.encoders[0].question_fingerprint == "e" * 64)
        failure = await refusal(cluster.search(text_request("a")))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "eeee" in failure.details()
        assert (await cluster.search(request())).coverage == 1.0


def _other_dim(reply):
    reply.vectors.dim, reply.vectors.packed = (
        4,
        reply.vectors.packed[: len(reply.vectors.packed) // 2],
    )


def _fewer_rows(reply):
    reply.vectors.n_rows, reply.vectors.packed = 1, reply.vectors.packed[:32]


def _nan_vector(reply):
    reply.vectors.packed = np.full(8 * reply.vectors.n_rows, np.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    "mutate",
    [
        _other_dim,
        _fewer_rows,
        _nan_vector,
        lambda reply: reply.truncated.pop(),
        lambda reply: setattr(reply, "fingerprint", "x"),
    ],
)
async def test_a_lying_encoder_is_refused(tmp_path, mutate):
    """Vectors that can't be the index's encoder's are not searched with."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].mutate = mutate
        failure = await refusal(cluster.search(text_request("a", "b")))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert cluster.n_searches == 0


async def test_a_hanging_encoder_holds_up_no_vectors(tmp_path):
    """Texts end at their deadline; vectors pass meanwhile."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].gate.clear()
        text = asyncio.ensure_future(cluster.search(text_request("a"), timeout_s=0.5))
        for _ in range(5):
            assert (await cluster.search(request())).coverage == 1.0
        assert (await refusal(text)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: cluster.n_under_way == 0)
