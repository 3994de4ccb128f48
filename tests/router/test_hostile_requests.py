"""Bytes that no client of ours would send: a status of the contract, and the router lives."""

import asyncio
import random

import grpc
import numpy as np
import pytest
from fakes.cluster import running, text_request, vector_request

from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
}


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flipped, cut, doubled and inserted bytes."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                del changed[place:]
            case 2:
                changed[place:place] = changed[: chance.randrange(8)]
            case _:
                changed[place:place] = chance.randbytes(chance.randrange(1, 6))
    return bytes(changed)


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return failure.code()
    return grpc.StatusCode.OK


async def test_mutated_requests_are_answered_or_refused(tmp_path, caplog):
    """600 of them: OK or a refusal, never INTERNAL or UNKNOWN, and good requests work after."""
    chance = random.Random(6)
    good = vector_request(np.ones((2, 8), np.float32), k=5, offset=2, min_coverage=0.5)
    good.MergeFrom(text_request("what", n_probe=3, oversample=2.0, exact=False))
    good.fields.paths.extend(["text", "metadata"])
    data = good.SerializeToString()
    async with running(tmp_path) as cluster:
        async with grpc.aio.insecure_channel(cluster.address) as channel:
            call = channel.unary_unary("/shoal.v1.SearchService/Search")
            n_refused = 0
            for _ in range(600):
                sent = mutate(data, chance)
                code = await code_of(call(sent, timeout=60))
                assert code is grpc.StatusCode.OK or code in ALLOWED, (code, sent)
                n_refused += code is not grpc.StatusCode.OK
        assert n_refused > 100
        assert len((await cluster.search(good)).results) == 3
    assert "Traceback" not in caplog.text


async def test_a_poisonous_vector_harms_nobody_else(tmp_path):
    """A vector whose scores would overflow is refused alone, before it rides with others."""
    async with running(tmp_path) as cluster:
        good = [cluster.search(vector_request(np.ones((1, 8), np.float32))) for _ in range(20)]
        bad = cluster.search(vector_request(np.full((1, 8), 3e38, np.float32)))
        *answers, refused = await asyncio.gather(*good, bad, return_exceptions=True)
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert all(answer.coverage == 1.0 for answer in answers)


async def test_a_request_over_the_limit_is_refused_and_the_connection_lives(tmp_path):
    """17 MiB: RESOURCE_EXHAUSTED, and the next call is answered."""
    async with running(tmp_path) as cluster:
        options = (("grpc.max_send_message_length", 64 << 20),)
        async with grpc.aio.insecure_channel(cluster.address, options=options) as channel:
            call = channel.unary_unary("/shoal.v1.SearchService/Search")
            code = await code_of(call(b"\0" * (17 << 20), timeout=60))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            good = vector_request(np.ones((1, 8), np.float32)).SerializeToString()
            assert await call(good, timeout=60)


async def refusal_of(cluster, request) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cluster.search(request)
    return refused.value


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("queries", vector_request(np.ones((70, 8), np.float32), k=1_000)),  # fault 27
        ("k", vector_request(np.ones((1, 8), np.float32), k=0)),  # fault 28
        ("k", vector_request(np.ones((1, 8), np.float32), k=2**31 - 1)),
        ("n_probe", vector_request(np.ones((1, 8), np.float32), n_probe=0)),  # fault 29
        ("n_probe", vector_request(np.ones((1, 8), np.float32), n_probe=2_049)),
        ("queries[0].vector", vector_request(np.full((1, 8), np.nan, np.float32))),  # fault 30
        ("queries[0].vector", vector_request(np.full((1, 8), np.inf, np.float32))),
        ("queries[0].vector", vector_request(np.ones((1, 7), np.float32))),  # fault 31
        ("queries", pb.SearchRequest()),
        ("queries[0].text", text_request(" \t\u2003")),  # fault 32
        ("queries[0].text", text_request("x" * (1 << 20))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_is_refused_before_any_work(tmp_path, field, request_):
    """Faults 27 to 32: INVALID_ARGUMENT that names the field; no shard and no encoder was asked."""
    async with running(tmp_path) as cluster:
        failure = await refusal_of(cluster, request_)
        assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_of(failure).field == field
        assert cluster.n_searches == cluster.encoders[0].n_calls == 0


async def test_more_hits_than_there_are_passages_is_all_of_them(tmp_path):
    """Fault 28: k above the live count answers every passage once, and no filler."""
    async with running(tmp_path) as cluster:
        answer = await cluster.search(vector_request(np.ones((1, 8), np.float32), k=1_000))
        found = sorted(hit.ordinal for hit in answer.results[0].hits)
        assert found == sorted(np.concatenate(cluster.corpus.ordinals_by_shard).tolist())
        assert all(hit.passage.id for hit in answer.results[0].hits)


@pytest.mark.parametrize("values", [0.0, 1e-45, -1e-40, 1e15], ids=str)
async def test_odd_but_finite_vectors_are_answered(tmp_path, values):
    """Fault 30: all-zero, denormal and large values have defined, finite scores."""
    async with running(tmp_path) as cluster:
        answer = await cluster.search(vector_request(np.full((1, 8), values, np.float32), k=5))
        assert np.isfinite([hit.score for hit in answer.results[0].hits]).all()


@pytest.mark.parametrize("text", ["\x00", "😀" * 16_000, "שלום עולם", "a\u202eb"], ids=ascii)
async def test_odd_texts_are_answered(tmp_path, text):
    """Fault 32: NUL, emoji up to the limit, right-to-left and its overrides are text like any."""
    async with running(tmp_path) as cluster:
        assert len((await cluster.search(text_request(text, k=3))).results[0].hits) == 3


async def test_text_that_is_not_utf8_is_our_refusal(tmp_path):
    """Fault 33: gRPC's own answer would be UNKNOWN with our internals; ours names no code line."""
    async with running(tmp_path) as cluster:
        good = text_request("abc").SerializeToString()
        bad = good.replace(b"abc", b"\xff\xfe\xfd")
        async with grpc.aio.insecure_channel(cluster.address) as channel:
            call = channel.unary_unary("/shoal.v1.SearchService/Search")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(bad, timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "Traceback" not in refused.value.details()
            assert await call(good, timeout=60)
