"""The whole generator, in its own process, against a real server."""

import asyncio

import grpc
import numpy as np
import pytest

from shoal import errors
from shoal.bench import LoadPlan, run_load
from shoal.bench.load import Served, refuse_bad_plan
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc


class Freezing(search_pb2_grpc.SearchServiceServicer):
    """Answers at once, but nothing in the first `frozen_s` after its first call."""

    def __init__(self) -> None:
        self.frozen_s = 0.0
        self.error: Exception | None = None
        self.coverage = 1.0
        self.requests: list[pb.SearchRequest] = []
        self._thaw_s: float | None = None

    async def Search(self, request, context):
        now_s = asyncio.get_running_loop().time()
        self._thaw_s = self._thaw_s or now_s + self.frozen_s
        self.requests.append(request)
        await asyncio.sleep(max(0.0, self._thaw_s - now_s))
        if self.error is not None:
            raise self.error
        return pb.SearchResponse(
            index="i", version=7, coverage=self.coverage, results=[pb.QueryResult()]
        )

    async def StreamSearch(self, requests, context):
        raise NotImplementedError

    async def ListIndexes(self, request, context):
        raise NotImplementedError

    async def GetIndex(self, request, context):
        raise NotImplementedError


@pytest.fixture
async def server():
    servicer = Freezing()
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(0)


async def run(**plan):
    return await asyncio.to_thread(run_load, LoadPlan(**plan))


async def test_a_freeze_shows_in_the_percentiles(server):
    """0.6 s frozen of 1 s at 100 calls a second: p50 is 0.1 s (the arithmetic is in test_drive)."""
    server.frozen_s = 0.6
    report = await run(target=server.target, rate=100, duration_s=1.0, warmup_s=0.0)
    assert report.n_calls == 100
    assert report.latency_ms.p50 == pytest.approx(100, abs=60)
    assert report.latency_ms.p99 == pytest.approx(590, abs=100)


async def test_closed_loop_waits_for_answers(server):
    """The same freeze costs a closed loop of 2 clients two calls; its rate shows what it lost."""
    server.frozen_s = 0.4
    report = await run(target=server.target, clients=2, duration_s=0.8, warmup_s=0.0)
    assert report.loop == "closed"
    assert report.latency_ms.max >= 350
    assert report.latency_ms.p50 < 100


async def test_failures_are_counted_by_code(server):
    """An error is no answer: it has its own latencies and its code, and no place in the rate."""
    server.error = errors.OverloadedError("full", retry_after_s=1.0)
    report = await run(target=server.target, rate=50, duration_s=0.4, warmup_s=0.0)
    assert report.errors == {"RESOURCE_EXHAUSTED": 20}
    assert report.queries_per_s == 0


async def test_degraded_answers_are_apart(server):
    """An answer with shards missing must not pass for a full one."""
    server.coverage = 0.5
    report = await run(target=server.target, rate=50, duration_s=0.4, warmup_s=0.0)
    assert report.degraded_ms.n == 20
    assert report.ok_ms.n == 0


async def test_texts_are_batched_in_turn(server):
    """Every query goes out once before any goes out twice."""
    texts = ("a", "b", "c", "d")
    await run(
        target=server.target, rate=20, duration_s=0.1, warmup_s=0.0, texts=texts, batch=2,
        options={"k": 7},
    )  # fmt: skip
    sent = [[query.text for query in request.queries] for request in server.requests]
    assert sorted(sent) == [["a", "b"], ["c", "d"]]
    assert {request.k for request in server.requests} == {7}


async def test_vectors_come_from_a_file(server, tmp_path):
    """A .npy matrix gives one query a row."""
    np.save(tmp_path / "q.npy", np.ones((3, 4), np.float32))
    await run(
        target=server.target, rate=20, duration_s=0.15, warmup_s=0.0,
        vectors_file=str(tmp_path / "q.npy"),
    )  # fmt: skip
    assert {request.queries[0].vector.dim for request in server.requests} == {4}


def test_a_plan_that_cannot_run_is_refused(tmp_path):
    """Both loops or none, a length of 0, a file that isn't there: one clear error each."""
    with pytest.raises(errors.InvalidArgumentError, match="one of them"):
        LoadPlan(target="x:1")
    with pytest.raises(errors.InvalidArgumentError, match="one of them"):
        LoadPlan(target="x:1", rate=1, clients=1)
    with pytest.raises(errors.InvalidArgumentError, match="duration_s"):
        LoadPlan(target="x:1", rate=1, duration_s=0)
    with pytest.raises(errors.InvalidArgumentError, match="timeout_s"):
        LoadPlan(target="x:1", rate=1, timeout_s=float("inf"))
    with pytest.raises(errors.InvalidArgumentError, match="split the call"):
        LoadPlan(target="x:1", rate=1, texts=("a" * (16 << 20),)).requests()
    with pytest.raises(errors.InvalidArgumentError, match=r"missing\.npy"):
        run_load(LoadPlan(target="x:1", rate=1, vectors_file=str(tmp_path / "missing.npy")))


async def test_a_refusal_is_told_before_the_run(server):
    """One call finds what every call would; what may pass is left for the run to count."""
    plan = LoadPlan(target=server.target, clients=1)
    assert await refuse_bad_plan(plan) == Served(index="i", version=7)
    server.error = errors.OverloadedError("full", retry_after_s=1.0)
    assert await refuse_bad_plan(plan) == Served()
    server.error = errors.InvalidArgumentError("k is 0", field="k")
    with pytest.raises(errors.InvalidArgumentError, match="k is 0"):
        await refuse_bad_plan(plan)
