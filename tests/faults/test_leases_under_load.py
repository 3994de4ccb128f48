"""Routers that learn by leases, under load: what silence may take away, and what it must not."""

import asyncio
import time

import pytest
from faults.announcing import LEASE_MS, Announcing
from faults.load import asking, requests_of, under_load, until
from faults.mini import Mini, Router

from shoal.bench.target import OK

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(300)]

LEASE_S = LEASE_MS / 1e3


def named(router: Router) -> set[str]:
    """The shard replicas in the router's topology."""
    return set(router.replicas())


async def test_silence_and_goodbyes(mini: Mini, oracle, rate):
    """One replica's silence lets it go, everybody's nobody, a goodbye at once: no query fails."""
    router, told = mini.lease_router(2)
    with Announcing(router.address, told) as announcing:
        await asyncio.to_thread(router.wait_whole)
        shards = named(router)
        silent = mini.shard(1, 1)

        async def harm(run):
            rest = {a: r for a, r in told.items() if a != silent.address}
            announcing.requests = rest
            await until(lambda: named(router) == shards - {silent.address}, 10, "it is let go")
            announcing.requests = {}
            end_s = time.monotonic() + 4 * LEASE_S
            while time.monotonic() < end_s:
                assert named(router) == shards - {silent.address}
                await asyncio.sleep(0.1)
            announcing.requests = told
            await until(lambda: named(router) == shards, 10, "it is back")
            await asyncio.to_thread(router.wait_whole)
            leaving = mini.shard(2, 0)
            await asyncio.to_thread(announcing.leave, leaving.address)
            assert named(router) == shards - {leaving.address}
            await asyncio.to_thread(leaving.terminate)

        async with asking(router, requests_of(oracle)) as ask:
            run = await under_load(ask, oracle, harm, rate=rate)
    run.check()
    assert run.codes() == {OK: len(run.seen)}
    partial = [s for s in run.seen if s.response is not None and s.response.coverage != 1.0]
    assert not partial


async def test_a_stopped_router_forgets_nobody(mini: Mini, oracle):
    """5 s without hearing anybody, who all went on announcing: no lease ends by that."""
    router, told = mini.lease_router(2)
    with Announcing(router.address, told):
        await asyncio.to_thread(router.wait_whole)
        shards = named(router)
        router.process.stop()
        await asyncio.sleep(5 * LEASE_S)
        router.process.cont()
        end_s = time.monotonic() + 4 * LEASE_S
        while time.monotonic() < end_s:
            assert await asyncio.to_thread(named, router) == shards
            await asyncio.sleep(0.02)
        async with asking(router, requests_of(oracle)) as ask:
            code, response, told_why = await ask(0, 5.0)
        assert code == OK, told_why
        assert response.coverage == 1.0
