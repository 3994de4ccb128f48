"""Bytes that no client of ours would send: a status of the contract, and the router lives."""

import asyncio
import random

import grpc
import numpy as np
from fakes.cluster import running, text_request, vector_request

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
                code = await code_of(call(sent, timeout=10))
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
            code = await code_of(call(b"\0" * (17 << 20), timeout=10))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            good = vector_request(np.ones((1, 8), np.float32)).SerializeToString()
            assert await call(good, timeout=10)
