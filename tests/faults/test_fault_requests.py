"""Requests that are too large, impossible, garbled, late or withdrawn: refused, no more."""

import asyncio
import time

import grpc
import numpy as np
import pytest
from faults import stub
from faults.load import METHOD, asking, requests_of, until
from faults.mini import Mini
from faults.proxy import Proxy

from shoal import vectors
from shoal.bench.target import OK
from shoal.rpc.channel import CHANNEL_OPTIONS
from shoal.v1 import search_pb2 as pb

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

VECTOR = stub.vector_of("question 0")[None]
MIB = 1 << 20


def by_vector(matrix: np.ndarray = VECTOR, **parameters: object) -> pb.SearchRequest:
    request = pb.SearchRequest(**parameters)
    for row in matrix:
        request.queries.add().vector.CopyFrom(vectors.to_proto(row[None]))
    return request


def by_text(text: str, **parameters: object) -> pb.SearchRequest:
    return pb.SearchRequest(queries=[pb.Query(text=text)], **parameters)


def by_message(message: object) -> pb.SearchRequest:
    return pb.SearchRequest(queries=[pb.Query(vector=message)])


def packed(n_bytes: int, n_rows: int = 1, dim: int = stub.DIM) -> pb.SearchRequest:
    return by_message(vectors.pb.Vectors(n_rows=n_rows, dim=dim, packed=bytes(n_bytes)))


class Raw:
    """Calls of bytes, whatever they are, over one connection."""

    def __init__(self, address: str) -> None:
        options = (*CHANNEL_OPTIONS, ("grpc.max_send_message_length", -1))
        self._channel = grpc.insecure_channel(address, options=options)
        self._call = self._channel.unary_unary(METHOD)

    def __enter__(self):
        grpc.channel_ready_future(self._channel).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def __call__(
        self, request: pb.SearchRequest | bytes, timeout_s: float | None = 30.0
    ) -> tuple[str, str, pb.SearchResponse | None, float]:
        """Code, details, answer, seconds."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        begun_s = time.perf_counter()
        try:
            reply = self._call(data, timeout=timeout_s)
        except grpc.RpcError as failure:
            return failure.code().name, failure.details(), None, time.perf_counter() - begun_s
        return OK, "", pb.SearchResponse.FromString(reply), time.perf_counter() - begun_s


def test_a_message_over_the_limit(mini: Mini, record, steady):
    """Fault 26: a batch of 17 MiB; its connection serves on."""
    router = mini.router(1)
    with Raw(router.address) as call:
        assert call(by_vector())[0] == OK
        before = router.process.rss_bytes()
        code, details, _, _ = call(by_vector(np.repeat(VECTOR, 64_000, axis=0)))
        after = router.process.rss_bytes()
        assert call(by_vector())[0] == OK
    record.exactly("the call", "RESOURCE_EXHAUSTED", code)
    assert "larger than max" in details
    record.at_most("memory that it took, MiB", 64, (after - before) / MIB)


def test_an_answer_over_the_limit(mini: Mini, record):
    """Fault 27: queries x k whose answer would not fit a message."""
    router = mini.router(1)
    many = by_vector(np.repeat(VECTOR, 1_000, axis=0), k=1_000)
    with Raw(router.address) as call:
        assert call(by_vector())[0] == OK
        before = router.n_shard_calls()
        told = [call(many) for _ in range(5)]
        record.exactly("the call", {"INVALID_ARGUMENT"}, {code for code, _, _, _ in told})
        record.exactly("calls to shards for it", 0.0, router.n_shard_calls() - before)
        # 1,000 queries take their time to arrive and to be parsed; the refusal takes none
        record.time("the refusal, request of 300 KB included", 0.02, min(t for *_, t in told))


NAN_AT_3 = VECTOR.copy()
NAN_AT_3[0, 3] = np.nan
TOO_LARGE = VECTOR * np.float32(1e38)

TABLE = {
    "28: k = 0": (by_vector(k=0), "INVALID_ARGUMENT", "k is 0"),
    "28: k = -1": (by_vector(k=-1), "INVALID_ARGUMENT", "k is -1"),
    "28: k = 2^31-1": (by_vector(k=2**31 - 1), "INVALID_ARGUMENT", "k is"),
    "29: n_probe = 0": (by_vector(n_probe=0), "INVALID_ARGUMENT", "n_probe is 0"),
    "29: n_probe = 2^31-1": (by_vector(n_probe=2**31 - 1), "INVALID_ARGUMENT", "n_probe is"),
    "29: n_probe over the lists": (by_vector(n_probe=2_048), OK, ""),
    "30: NaN": (by_vector(NAN_AT_3), "INVALID_ARGUMENT", "element 3"),
    "30: infinity": (by_vector(VECTOR * np.float32(np.inf)), "INVALID_ARGUMENT", "element 0"),
    "30: 1e38": (by_vector(np.full_like(VECTOR, 1e38)), "INVALID_ARGUMENT", "element 0"),
    "30: denormal": (by_vector(np.full_like(VECTOR, 1e-42)), OK, ""),
    "30: all zero": (by_vector(np.zeros_like(VECTOR)), OK, ""),
    "31: another dimension": (by_vector(VECTOR[:, :32]), "INVALID_ARGUMENT", "32 dimensions"),
    "31: bytes that are no floats": (packed(4 * stub.DIM - 1), "INVALID_ARGUMENT", "bytes"),
    "31: no bytes": (packed(0), "INVALID_ARGUMENT", "bytes"),
    "31: no rows": (packed(0, n_rows=0), "INVALID_ARGUMENT", "rows"),
    "31: no queries": (pb.SearchRequest(), "INVALID_ARGUMENT", "queries is 0"),
    "31: a query of nothing": (pb.SearchRequest(queries=[pb.Query()]), "INVALID_ARGUMENT", "empty"),
    "32: no text": (by_text(""), "INVALID_ARGUMENT", "queries[0].text is empty"),
    "32: white space": (by_text(" \t\n\u00a0"), "INVALID_ARGUMENT", "queries[0].text is empty"),
    "32: 1 MB of text": (by_text("a" * 1_000_000), "INVALID_ARGUMENT", "bytes"),
    "32: 100,000 emoji": (by_text("\U0001f600" * 100_000), "INVALID_ARGUMENT", "bytes"),
    "32: NUL": (by_text("what\0is"), OK, ""),
    "32: right to left": (by_text("\u202eמה זה"), OK, ""),
    "33: a text that is no UTF-8": (b"\x12\x04\x0a\x02\xff\xfe", "INVALID_ARGUMENT", "message"),
    "33: a message cut short": (
        by_vector().SerializeToString()[:-9],
        "INVALID_ARGUMENT",
        "message",
    ),
    "33: a group that never ends": (b"\x0b" * 200, "INVALID_ARGUMENT", "message"),
}


def test_impossible_requests(mini: Mini, record, steady):
    """Fault 28-33: k, n_probe, vectors, texts and bytes that can't be: a table of refusals."""
    router = mini.router(1)
    slowest_s = 0.0
    with Raw(router.address) as call:
        assert call(by_vector())[0] == OK
        memory = steady(router.process, mini.encoder)
        for name, (request, wanted, words) in TABLE.items():
            code, details, response, took_s = call(request)
            assert code == wanted, f"{name}: {code}, {details}"
            assert words in details, f"{name}: {details}"
            assert "Traceback" not in details
            if response is not None:
                hits = response.results[0].hits
                assert len(hits) == 10, name
                assert all(hit.passage.id == f"p{hit.ordinal}" for hit in hits), name
                assert np.isfinite([hit.score for hit in hits]).all(), name
            slowest_s = max(slowest_s, took_s)
        assert call(by_vector())[0] == OK
    memory()
    log = router.process.log.read_text()
    record.exactly(f"of {len(TABLE)} requests, as the table says", len(TABLE), len(TABLE))
    record.exactly("tracebacks in the router's log", 0, log.count("Traceback"))
    record.time("the slowest of them", 1.0, slowest_s)


def test_spent_deadlines_start_no_work(mini: Mini, record):
    """Fault 34: calls whose deadline has passed, passes in 1 ms, or passes in the encoder."""
    # or a check of the stopped encoder ends between two calls, and who asks then has nobody to ask
    router = mini.router(1, "--check-timeout-s", "60")
    with Raw(router.address) as call:
        assert call(by_text("question 1"))[0] == OK
        before = router.n_shard_calls()
        expired = {call(by_vector(), -0.01)[0] for _ in range(50)}
        mini.encoder.stop()
        try:
            expired |= {call(by_text(f"question {i}"), 0.1)[0] for i in range(2, 10)}
        finally:
            mini.encoder.cont()
        record.exactly("calls to shards for expired calls", 0.0, router.n_shard_calls() - before)
        record.exactly("expired calls", {"DEADLINE_EXCEEDED"}, expired)
        short = {call(by_vector(), 0.001)[0] for _ in range(50)}
        record.only("calls with 1 ms left", {"DEADLINE_EXCEEDED", OK}, short)
        assert call(by_vector())[0] == OK


@pytest.mark.faults
def test_no_deadline_means_the_default(mini: Mini, record):
    """Fault 35: a call without a deadline while the encoder hangs."""
    router = mini.router(1)
    with Raw(router.address) as call:
        assert call(by_text("question 1"))[0] == OK
        mini.encoder.stop()
        try:
            code, _, _, took_s = call(by_text("question 2"), None)
        finally:
            mini.encoder.cont()
    record.only("the call", {"DEADLINE_EXCEEDED", "UNAVAILABLE"}, {code})
    record.at_most("seconds that it took", 10.5, took_s)


@pytest.mark.faults
async def test_cancelled_calls_leave_nothing(mini: Mini, oracle, record, steady):
    """Fault 36: 200 calls are cancelled while the shards search."""
    mini.heal(1)
    victim = mini.shard(0).address
    async with Proxy(victim) as proxy:
        router = await asyncio.to_thread(mini.router, 1, instead={victim: proxy.address})
        memory = steady(router.process)
        gone_s = []
        async with grpc.aio.insecure_channel(router.address) as channel:
            method = channel.unary_unary(METHOD)
            data = by_vector().SerializeToString()
            await method(data, timeout=10)
            proxy.delay_s = 0.5
            for _ in range(20):
                calls = [method(data, timeout=10) for _ in range(10)]
                await until(lambda: router.n_in_flight() > 0, 5, "shards are asked")
                for call in calls:
                    call.cancel()
                gone_s.append(
                    await until(lambda: router.n_in_flight() == 0, 5, "nothing is in flight")
                )
            proxy.delay_s = 0.0
        async with asking(router, requests_of(oracle)) as ask:
            code, response, why = await ask(0, 10.0)
    assert code == OK, why
    assert not (why := oracle.fault(response, [0], 10)), why
    await asyncio.to_thread(memory)
    record.time("nothing is in flight after a cancel", 0.2, max(gone_s))
