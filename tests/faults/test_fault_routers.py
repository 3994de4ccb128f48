"""Routers that end, versions that move, shards that are restarted: nobody notices."""

import asyncio
import time

import grpc
import pytest
from faults import stub
from faults.index import CORRUPT
from faults.load import asking, quantile_s, requests_of, under_load
from faults.mini import Mini

from shoal.bench.target import OK
from shoal.client import AsyncClient
from shoal.errors import ShoalError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(300)]


class Sdk:
    """An `Ask` through the SDK, with its retries; answers are kept as the SDK gives them."""

    def __init__(self, client, oracle):
        self._client = client
        self._oracle = oracle
        self.faults = []

    async def __call__(self, i, timeout_s):
        number = i % len(self._oracle.query_vectors)
        try:
            answer = await self._client.search(
                vector=self._oracle.query_vectors[number], timeout_s=timeout_s
            )
        except ShoalError as failure:
            return failure.code.name, None, failure.message
        if answer.coverage != 1.0 or len(answer.hits) != 10:
            self.faults.append(answer)
        return OK, None, ""


def pair(one, two):
    """Both routers as one target: gRPC goes to the next where one is gone."""
    return f"ipv4:{one.address},{two.address}"


async def test_a_router_drains(mini: Mini, oracle, rate, record):
    """Fault 21: one of two routers gets SIGTERM under load."""
    one, two = mini.router(2), mini.router(2)
    took_s = []

    async def end_it(run):
        took_s.append(await asyncio.to_thread(one.process.terminate, 20.0))
        await asyncio.sleep(1.0)

    async with AsyncClient(pair(one, two)) as client:
        sdk = Sdk(client, oracle)
        run = await under_load(sdk, oracle, end_it, rate=rate)
    record.at_most(f"errors of {len(run.seen)} calls that the SDK shows", 0,
                   len(run.seen) - run.codes()[OK])  # fmt: skip
    assert not sdk.faults
    record.time("the router has ended", 5.0, took_s[0])


@pytest.mark.parametrize("n_routers", [2, 1])
async def test_a_router_is_killed(mini: Mini, oracle, rate, record, n_routers):
    """Fault 22: a router is killed under load, with so many routers; the SDK retries."""
    one = mini.router(2)
    two = mini.router(2) if n_routers == 2 else one
    in_flight = []

    async def kill_it(run):
        one.process.kill()
        if n_routers == 1:
            in_flight.append(len(run.seen))
            await asyncio.to_thread(mini.started, one.process)
        await asyncio.sleep(2.0)

    target = pair(one, two) if n_routers == 2 else one.address
    async with AsyncClient(target) as client:
        sdk = Sdk(client, oracle)
        run = await under_load(sdk, oracle, kill_it, rate=rate, timeout_s=10.0)
    n_failed = len(run.seen) - run.codes()[OK]
    if n_routers == 2:
        record.at_most(f"errors of {len(run.seen)} calls with two routers", 0, n_failed)
    else:
        # with one router there is nobody to ask until it is back: four attempts end within 0.7 s
        down = [s for s in run.seen if s.code != OK]
        record.only("codes with one router", {"UNAVAILABLE"}, {s.code for s in down})
        assert all(s.sent_s <= run.healed_s for s in down), "it fails on after the router is back"
    assert not sdk.faults


async def test_a_router_is_stopped(mini: Mini, oracle, rate, record):
    """Fault 22 (stopped): one of two routers is stopped for 6 s under load, its sockets open."""
    one, two = mini.router(2), mini.router(2)
    stopped_s = []

    async def stop_it(run):
        one.process.stop()
        stopped_s.append(time.perf_counter())
        await asyncio.sleep(6.0)
        one.process.cont()

    async with AsyncClient(pair(one, two)) as client:
        sdk = Sdk(client, oracle)
        run = await under_load(sdk, oracle, stop_it, rate=rate, timeout_s=10.0)
    record.at_most(f"errors of {len(run.seen)} calls that the SDK shows", 0,
                   len(run.seen) - run.codes()[OK])  # fmt: skip
    assert not sdk.faults
    # a second of silence, a ping with 1.5 s for its answer, then the retry's delay
    record.time("the slowest call", 2.7, max(seen.latency_s for seen in run.seen))
    found = run.due(stopped_s[0] + 3.0, run.healed_s)
    record.time("the slowest call once it is found out", 0.25, max(s.latency_s for s in found))


async def reload(router, version):
    async with grpc.aio.insecure_channel(router.address) as channel:
        stub_ = admin_pb2_grpc.AdminServiceStub(channel)
        request = admin_pb2.ReloadIndexRequest(index=stub.NAME, version=version)
        await stub_.ReloadIndex(request, timeout=60)


async def test_versions_move_under_load(mini: Mini, oracle, rate, record):
    """Fault 23: three reloads to new versions under load, all shards and replicas."""
    router = mini.router(2)
    before = max(process.rss_bytes() for process in mini.shards(2))
    peak = [before]

    async def watch():
        while True:
            peak.append(max(process.rss_bytes() for process in mini.shards(2)))
            await asyncio.sleep(0.1)

    async def move(run):
        watching = asyncio.ensure_future(watch())
        for version in (2, 3, 4):
            await reload(router, version)
            await asyncio.sleep(1.5)
        watching.cancel()

    try:
        async with asking(router, requests_of(oracle)) as ask:
            run = await under_load(ask, oracle, move, rate=rate)
        run.check()
        record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()[OK])
        versions = {s.response.version for s in run.seen if s.response is not None}
        record.exactly("versions that answered, none mixed", {1, 2, 3, 4}, versions)
        record.time("p99 over the reloads", 2 * run.base_s, quantile_s(run.during, 0.99))
        record.at_most("memory at the peak over that before", 2.2, max(peak) / before)
    finally:
        await asyncio.to_thread(mini.start_again)


async def test_a_corrupt_version_is_stayed_away_from(mini: Mini, oracle, rate, record):
    """Fault 24: a reload to a version with a flipped bit under load."""
    router = mini.router(1)
    refusals = []

    async def move(run):
        try:
            await reload(router, CORRUPT)
        except grpc.aio.AioRpcError as failure:
            refusals.append(failure)
        await asyncio.sleep(1.0)

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, move, rate=rate)
    run.check()
    (refusal,) = refusals
    record.exactly("the reload", "FAILED_PRECONDITION", refusal.code().name)
    assert "vectors.faiss" in refusal.details(), refusal.details()
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()[OK])
    versions = {s.response.version for s in run.seen if s.response is not None}
    record.exactly("versions that answered", {1}, versions)
    told = router.metric("shoal_requests_total", rpc="ReloadIndex", code="FAILED_PRECONDITION")
    record.exactly("refused reloads that the metrics tell", 1.0, told)
    alarm = router.metric("shoal_reload_failures_total", index=stub.NAME)
    record.exactly("failed reloads by the alarm's metric", 1.0, alarm)


async def test_a_rolling_restart(mini: Mini, oracle, rate, record):
    """Fault 25: every shard process is ended by SIGTERM and started again, one after the other."""
    router = mini.router(2)

    async def roll(run):
        for process in mini.shards(2):
            await asyncio.to_thread(process.terminate)
            await asyncio.to_thread(mini.started, process)
            await asyncio.to_thread(router.wait_whole)

    begun_s = time.monotonic()
    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, roll, rate=rate)
    run.check()
    partial = [s for s in run.seen if s.response is not None and s.response.coverage != 1.0]
    record.at_most(f"failed of {len(run.seen)} answers in {time.monotonic() - begun_s:.0f} s", 0,
                   len(run.seen) - run.codes()[OK])  # fmt: skip
    record.at_most("answers with coverage below 1", 0, len(partial))
