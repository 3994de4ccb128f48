"""Too many connections, streams, calls, descriptors or hogs: what is admitted is served."""

import asyncio
import contextlib
import resource
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from faults.load import (
    METHOD,
    asking,
    quantile_s,
    requests_of,
    under_load,
)
from faults.mini import EJECTED, Mini

from shoal import vectors
from shoal.bench.target import OK
from shoal.errors import OverloadedError
from shoal.rpc.channel import open_channel
from shoal.rpc.deadline import TIMEOUT_KEY
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(300)]

MIB = 1 << 20
TOLD = ((TIMEOUT_KEY, "10000"),)
"""What the SDK says of a call's time limit."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def drip(host: str, port: int) -> float:
    """Sends the preface, a byte a second; returns after how many seconds the server hung up."""
    begun_s = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    sent = 0
    try:
        while time.monotonic() < begun_s + 40:
            writer.write(PREFACE[sent : sent + 1] or b"\0")
            sent += 1
            closed = asyncio.ensure_future(reader.read(65_536))
            done, _ = await asyncio.wait({closed}, timeout=1.0)
            if not done:
                closed.cancel()
                await asyncio.gather(closed, return_exceptions=True)
            elif not closed.result():
                break
    except OSError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - begun_s


async def test_slow_handshakes_are_cut_off(mini: Mini, oracle, rate, record):
    """Fault 37: 200 sockets send the HTTP/2 preface a byte a second."""
    router = mini.router(1)
    host, _, port = router.address.rpartition(":")
    held_s = []

    async def drip_all(run):
        held_s.extend(await asyncio.gather(*(drip(host, int(port)) for _ in range(200))))

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, drip_all, rate=rate)
    run.check()
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()[OK])
    record.time("every slow socket is closed", 12.0, max(held_s))
    record.time("p99 of the others", 1.5 * run.base_s, quantile_s(run.during, 0.99))


async def test_ten_thousand_streams(mini: Mini, oracle, record):
    """Fault 38: 10,000 calls at once over 10 connections."""
    router = mini.router(1)
    requests = requests_of(oracle)
    timeout_s = 10.0
    before = router.process.rss_bytes()
    codes, took_s, unexplained, wrong = {}, [], [], []

    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(router.address)) for _ in range(10)
        ]
        methods = [c.unary_unary(METHOD, None, pb.SearchResponse.FromString) for c in channels]

        async def call(i):
            begun_s = time.monotonic()
            try:
                response = await methods[i % 10](requests[i % 64], timeout=timeout_s, metadata=TOLD)
            except grpc.RpcError as failure:
                code = failure.code().name
                if code == "RESOURCE_EXHAUSTED":
                    error = error_of(failure)
                    if not isinstance(error, OverloadedError) or not error.retry_after_s > 0:
                        unexplained.append(failure)
            else:
                code = OK
                took_s.append(time.monotonic() - begun_s)
                if why := oracle.fault(response, [i % 64], 10):
                    wrong.append(why)
            codes[code] = codes.get(code, 0) + 1

        await asyncio.gather(*(call(i) for i in range(10_000)))
        peak = router.process.rss_bytes()
        begun_s = time.monotonic()
        for i in range(50):
            while (await ask_once(methods[0], requests[i % 64])) != OK:
                assert time.monotonic() < begun_s + 15, "it never recovers"
                await asyncio.sleep(0.05)
        recovered_s = time.monotonic() - begun_s
    print(codes)
    record.at_most(f"wrong of {codes.get(OK, 0)} answers", 0, len(wrong))
    record.at_most("RESOURCE_EXHAUSTED without RetryInfo", 0, len(unexplained))
    record.only("codes", {OK, "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, set(codes))
    # this process has 10,000 answers to take: what it adds is not the cluster's
    record.time("p99 of those admitted", timeout_s, float(np.quantile(took_s, 0.99)))
    record.at_most("memory of the router, MiB", 300, (peak - before) / MIB)
    record.time("50 calls succeed afterwards", 5.0, recovered_s)


async def ask_once(method, request: bytes) -> str:
    try:
        await method(request, timeout=5)
    except grpc.RpcError as failure:
        return failure.code().name
    return OK


HEAVY = 256
"""Queries a call, exact: few calls a second are a load then, and the generator has time."""
FLOOD_S = 60.0


async def test_overload_keeps_the_goodput(mini: Mini, oracle, record):
    """Fault 39: three times the load that the cluster sustains, for 60 s."""
    router = mini.router(1)
    matrix = np.resize(oracle.query_vectors, (HEAVY, oracle.query_vectors.shape[1]))
    heavy = pb.SearchRequest(k=1, exact=True)
    heavy.fields.SetInParent()
    for row in matrix:
        heavy.queries.add().vector.CopyFrom(vectors.to_proto(row[None]))
    async with asking(router, [heavy.SerializeToString()]) as ask:
        peak = await sustained(ask)
        calls = await flood(ask, rate=3 * peak, total_s=FLOOD_S)
    window_s = FLOOD_S - 2.0  # from the second second on: the queues have filled
    good = [s for s in calls if s[2] == OK and 2.0 <= s[1] < 2.0 + window_s]
    refused = [done - sent for sent, done, code in calls if code == "RESOURCE_EXHAUSTED"]
    codes = {code for _, _, code in calls}
    record.only("codes", {OK, "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, codes)
    record.at_least("goodput over the peak", 0.9, len(good) / window_s / peak)
    if refused:
        record.time("p90 of refusals", 0.1, float(np.quantile(refused, 0.9)))


async def sustained(ask) -> float:
    """The most answers a second that more and more clients get: few alone don't load a cluster."""
    best = 0.0
    for clients in (4, 8, 16, 32, 64):
        found = await goodput(ask, clients=clients, total_s=4.0)
        if found < 1.05 * best:
            break
        best = max(best, found)
    return best


async def goodput(ask, *, clients: int, total_s: float) -> float:
    """Answers a second of so many clients in a closed loop."""
    end_s, n_ok = time.monotonic() + total_s, 0

    async def client():
        nonlocal n_ok
        while time.monotonic() < end_s:
            code, _, _ = await ask(0, 5.0)
            n_ok += code == OK  # apart: `n_ok += await` would add to what it was before the wait

    await asyncio.gather(*(client() for _ in range(clients)))
    return n_ok / total_s


async def flood(ask, *, rate: float, total_s: float) -> list[tuple[float, float, str]]:
    """An open loop: when each call was sent and answered, in seconds from the start, and how."""
    begun_s, calls = time.monotonic(), []

    async def call():
        sent_s = time.monotonic() - begun_s
        code, _, _ = await ask(0, 2.0)
        calls.append((sent_s, time.monotonic() - begun_s, code))

    async with asyncio.TaskGroup() as group:
        for i in range(int(rate * total_s)):
            await asyncio.sleep(max(0.0, begun_s + i / rate - time.monotonic()))
            group.create_task(call())
    return calls


async def test_descriptors_run_out(mini: Mini, oracle, rate, record):
    """Fault 55: the router may open 64 descriptors, and 200 connections come."""
    router = mini.router(1)
    host, _, port = router.address.rpartition(":")
    healed_s = []

    async def exhaust(run):
        soft, hard = resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE)
        n_now = router.process.n_fds()
        resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (max(64, n_now + 4), hard))
        writers = []
        for _ in range(200):
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.2):
                    writers.append((await asyncio.open_connection(host, int(port)))[1])
        await asyncio.sleep(3.0)
        for writer in writers:
            writer.transport.abort()
        resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        healed_s.append(time.perf_counter())

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, exhaust, rate=rate, after_s=8.0)
    run.check()
    record.exactly("the router lives", True, router.process.is_alive)
    late = run.due(healed_s[0] + 5.0, float("inf"))
    record.at_most("calls that fail 5 s later", 0, sum(s.code != OK for s in late))
    record.time("p99 5 s later", 1.5 * run.base_s, quantile_s(late, 0.99))


HOG = """
import os, time
os.nice(5)
end_s = time.monotonic() + 60
while time.monotonic() < end_s:
    pass
"""


def start_hogs(n_hogs: int) -> list[subprocess.Popen]:
    return [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(n_hogs)]


async def test_hogs_make_nobody_ill(mini: Mini, oracle, rate, record):
    """Fault 57: four processes burn all cores for 60 s."""
    router = mini.router(2)
    ejected = []

    async def burn(run):
        end_s = time.monotonic() + 60.0
        hogs = start_hogs(4)
        try:
            while time.monotonic() < end_s:
                told = await asyncio.to_thread(router.replicas)
                ejected.extend(a for a, r in told.items() if r.state == EJECTED)
                await asyncio.sleep(0.2)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, burn, rate=rate)
    run.check()
    record.at_most("replicas left out for nothing", 0, len(ejected))
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()[OK])
    record.time("the latest answer after its deadline", 0.05, run.overtime_s)
