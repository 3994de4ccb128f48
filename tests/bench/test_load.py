"""The whole generator, in its own process, against a real server."""

import asyncio

import numpy as np
import pytest
from fakes.served_search import serving_search

from shoal import errors
from shoal.bench import LoadPlan, Stage, load, run_load
from shoal.bench.load import start_workers
from shoal.bench.target import Served
from shoal.v1 import priority_pb2, search_pb2_grpc
from shoal.v1 import search_pb2 as pb


class Freezing(search_pb2_grpc.SearchServiceServicer):
    """Answers at once, but nothing in the first `frozen_s` after its first call."""

    def __init__(self) -> None:
        self.frozen_s = 0.0
        self.error: Exception | None = None
        self.coverage = 1.0
        self.version = 7
        self.requests: list[pb.SearchRequest] = []
        self._thaw_s: float | None = None

    async def Search(self, request, context):
        now_s = asyncio.get_running_loop().time()
        self._thaw_s = self._thaw_s or now_s + self.frozen_s
        self.requests.append(request)
        await asyncio.sleep(max(0.0, self._thaw_s - now_s))
        if self.error is not None:
            raise self.error
        return self.answer(request)

    def answer(self, request):
        """Of passages 0 to 9 the approximate search finds 1 to 9 and a wrong one."""
        ids = range(10) if request.exact else range(1, 11)
        hits = [pb.Hit(passage=pb.Passage(id=str(i))) for i in ids]
        return pb.SearchResponse(
            index="i", version=self.version, coverage=self.coverage,
            results=[pb.QueryResult(hits=hits) for _ in request.queries],
            timings=pb.StageTimings(queue_ms=1.0, search_ms=3.0, total_ms=4.0),
        )  # fmt: skip


@pytest.fixture
async def server():
    servicer = Freezing()
    async with serving_search(servicer) as servicer.target:
        yield servicer


async def run(**plan):
    return await asyncio.to_thread(run_load, LoadPlan(**plan))


async def test_a_freeze_shows_in_the_percentiles(server):
    """0.6 s frozen of 1 s at 100 calls a second: p50 is 0.1 s and p99 0.59 s, or more by what a
    busy machine adds (the arithmetic is in test_drive, and there exact).
    """
    server.frozen_s = 0.6
    report = await run(target=server.target, rate=100, duration_s=1.0, warmup_s=0.0)
    assert report.n_calls == 100
    assert report.latency_ms.p50 >= 98
    assert report.latency_ms.p99 >= 588


async def test_closed_loop_waits_for_answers(server):
    """The same freeze is in the latencies of a closed loop too (of two calls: test_drive)."""
    server.frozen_s = 0.4
    report = await run(target=server.target, clients=2, duration_s=0.8, warmup_s=0.0)
    assert report.loop == "closed"
    assert report.n_calls >= 2
    assert report.latency_ms.max >= 398


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
    with pytest.raises(errors.CorpusError, match=r"missing\.npy"):
        run_load(LoadPlan(target="x:1", rate=1, vectors_file=str(tmp_path / "missing.npy")))


async def test_a_refusal_is_told_before_the_run(server):
    """One call finds what every call would; what may pass is left for the run to count."""
    async with start_workers(LoadPlan(target=server.target, clients=1)) as workers:
        assert await workers.refuse_bad_plan() == Served(index="i", version=7)
        server.error = errors.OverloadedError("full", retry_after_s=1.0)
        assert await workers.refuse_bad_plan() == Served()
        server.error = errors.InvalidArgumentError("k is 0", field="k")
        with pytest.raises(errors.InvalidArgumentError, match="k is 0"):
            await workers.refuse_bad_plan()


async def test_workers_share_one_schedule(server):
    """Three processes send what one would: every call of the schedule once, each query in turn."""
    texts = tuple(f"q{i}" for i in range(60))
    report = await run(
        target=server.target, rate=100, duration_s=0.6, warmup_s=0.0, texts=texts, workers=3
    )
    assert report.n_calls == report.ok_ms.n == 60
    assert sorted(r.queries[0].text for r in server.requests) == sorted(texts)
    assert report.generator.workers == 3


async def test_a_later_stage_asks_what_no_earlier_one_did(server):
    """Or the encoder's cache would know its questions, and every step would look faster."""
    plan = LoadPlan(target=server.target, rate=50, texts=tuple(f"q{i}" for i in range(60)))
    stage = Stage(rate=50, warmup_s=0.1, duration_s=0.3)
    async with start_workers(plan) as workers:
        for _ in range(2):
            await workers.run(stage)
    asked = [request.queries[0].text for request in server.requests]
    assert len(asked) == len(set(asked)) == 40


async def test_recall_is_of_the_run_s_own_answers(server):
    """Nine of the true ten are in every answer, and exact search is asked before the load."""
    report = await run(
        target=server.target, rate=50, duration_s=0.4, warmup_s=0.0, recall_sample=10,
        options={"n_probe": 4, "fields": ()},
    )  # fmt: skip
    assert report.recall is not None
    assert (report.recall.mean, report.recall.k) == (pytest.approx(0.9), 10)
    assert report.recall.n == 10
    exact, load = server.requests[:10], server.requests[10:]
    assert all(r.exact and not r.HasField("n_probe") for r in exact)
    # past the encoder's cache, or the load's own questions would be known there
    assert all(r.priority == priority_pb2.PRIORITY_BULK for r in exact)
    assert not any(r.exact for r in load)
    assert {r.n_probe for r in load} == {4}


async def test_another_version_s_answers_are_no_recall(server):
    """A reload after the exact answers: its passages are others, so nothing is compared."""
    plan = LoadPlan(target=server.target, rate=50, recall_sample=5)
    async with start_workers(plan) as workers:
        truth, why = await workers.find_truth(5, [Stage(rate=50, warmup_s=0, duration_s=0.2)])
        assert truth is not None, why
        server.version = 8
        report = await workers.run(Stage(rate=50, warmup_s=0, duration_s=0.2), truth)
    assert report.recall is None
    assert report.versions == (8,)


async def test_stage_times_are_the_server_s_own(server):
    """What the server doesn't account for is told apart: the way there and back, and parsing."""
    report = await run(target=server.target, rate=50, duration_s=0.4, warmup_s=0.0)
    assert report.stages_ms["search"].mean == pytest.approx(3.0, rel=0.01)
    assert sum(stage.mean for stage in report.stages_ms.values()) == pytest.approx(4.0, rel=0.01)
    took_ms = report.latency_ms.mean - report.late_ms.mean
    assert report.outside_ms == pytest.approx(max(0.0, took_ms - 4.0), abs=0.01)


async def test_a_dead_worker_ends_the_run(server):
    """What it would have sent is missing: no report at all is better than one without it."""
    plan = LoadPlan(target=server.target, rate=50, workers=2)
    async with start_workers(plan) as workers:
        workers.processes[1].kill()
        with pytest.raises(errors.InternalError, match="died"):
            await workers.run(Stage(rate=50, duration_s=20.0))


async def test_a_load_that_can_t_be_made_is_the_generator_s_fault(tmp_path, monkeypatch):
    """It sends and tells, and is never done: no worker that hangs, and no bug."""
    (tmp_path / "never_done.py").write_text(
        "import asyncio\n"
        "from contextlib import asynccontextmanager\n"
        "class Target:\n"
        "    n_requests, stages = 3, ()\n"
        "    async def send(self, request, *, with_ids):\n"
        "        await asyncio.Event().wait()\n"
        "@asynccontextmanager\n"
        "async def open_target(plan):\n"
        "    yield Target()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(load, "_GRACE_S", 0.0)
    with pytest.raises(errors.VerdictError, match="can't make this load"):
        await run(
            target="anything", adapter="never_done:open_target", rate=100, duration_s=0.2,
            warmup_s=0.0, timeout_s=4.0,
        )  # fmt: skip


async def test_an_adapter_of_one_s_own(tmp_path, monkeypatch):
    """Any system can be aimed at: a module that yields something with `send`."""
    (tmp_path / "mine.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from shoal.bench.target import Reply, Served\n"
        "class Mine:\n"
        "    n_requests, stages = 3, ()\n"
        "    async def send(self, request, *, with_ids):\n"
        "        return Reply(code='OK' if request else 'INTERNAL')\n"
        "    async def refuse_bad_plan(self):\n"
        "        return Served(index='mine')\n"
        "@asynccontextmanager\n"
        "async def open_target(plan):\n"
        "    yield Mine()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = await run(
        target="anything", adapter="mine:open_target", rate=100, duration_s=0.3, warmup_s=0.0
    )
    assert (report.ok_ms.n, report.errors) == (20, {"INTERNAL": 10})
    with pytest.raises(errors.InvalidArgumentError, match="no_such"):
        await run(target="anything", adapter="no_such:open_target", rate=1)
