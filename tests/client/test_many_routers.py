"""A client of several routers: each in turn, without those that don't serve, past faults."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from shoal.client import AsyncClient, Client
from shoal.errors import InvalidArgumentError, UnavailableError
from shoal.v1 import search_pb2 as pb

VECTOR = np.ones(4, np.float32)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ANSWER = pb.SearchResponse(results=[pb.QueryResult()])

Search = Callable[[], Awaitable[object]]


def target_of(*routers: object) -> str:
    return f"ipv4:{','.join(router.target for router in routers)}"


@pytest.fixture(params=["sync", "async"])
def searching(request) -> Callable[[str], contextlib.AbstractAsyncContextManager[Search]]:
    """`async with searching(target) as search`: one client, asked again and again."""

    @contextlib.asynccontextmanager
    async def blocking(target: str) -> AsyncIterator[Search]:
        with Client(target) as client:
            yield lambda: asyncio.to_thread(client.search, vector=VECTOR)

    @contextlib.asynccontextmanager
    async def awaiting(target: str) -> AsyncIterator[Search]:
        async with AsyncClient(target) as client:
            yield lambda: client.search(vector=VECTOR)

    return blocking if request.param == "sync" else awaiting


async def asked(routers, search: Search, times: int) -> list[int]:
    """How many of so many calls each router got."""
    before = [len(router.requests) for router in routers]
    for _ in range(times):
        await search()
    return [len(router.requests) - n for router, n in zip(routers, before, strict=True)]


async def until(routers, search: Search, wanted: Callable[[list[int]], bool]) -> None:
    end_s = time.monotonic() + 60
    while not wanted(await asked(routers, search, 4)):
        assert time.monotonic() < end_s, "it never came"


async def test_routers_are_asked_in_turn(pair, searching):
    """Half of the calls each, once both are connected."""
    for router in pair:
        router.steps = [ANSWER]
    async with searching(target_of(*pair)) as search:
        await until(pair, search, all)
        assert await asked(pair, search, 20) == [10, 10]


async def test_who_drains_is_left_out_and_comes_back(pair, searching):
    """Health says NOT_SERVING before a router takes no more calls; not one is lost by it."""
    one, _ = pair
    for router in pair:
        router.steps = [ANSWER]
    async with searching(target_of(*pair)) as search:
        await until(pair, search, all)
        await one.serving(NOT_SERVING)
        await until(pair, search, lambda n: n[0] == 0)
        assert await asked(pair, search, 10) == [0, 10]
        await one.serving(SERVING)
        await until(pair, search, all)


async def test_what_one_router_cannot_answer_another_does(pair, searching):
    """UNAVAILABLE is tried again, and the next in turn is another."""
    one, two = pair
    one.steps, two.steps = [UnavailableError("no shard")], [ANSWER]
    async with searching(target_of(*pair)) as search:
        end_s, n_answered = time.monotonic() + 60, 0
        while n_answered < 6 or not one.requests:  # it may be connected to later
            assert time.monotonic() < end_s, "it was never asked"
            await search()
            n_answered += 1
    assert len(two.requests) == n_answered


async def test_an_address_where_nobody_is_costs_no_call(pair, searching):
    """A list may name a router that is gone."""
    one, _ = pair
    one.steps = [ANSWER]
    async with searching(f"ipv4:{one.target},127.0.0.1:9") as search:
        assert await asked([one], search, 8) == [8]


async def test_a_name_is_balanced_too(pair, searching):
    """`dns:///` with one address, here; health decides as for a list."""
    one, _ = pair
    one.steps = [ANSWER]
    port = one.target.rpartition(":")[2]
    async with searching(f"dns:///localhost:{port}") as search:
        await search()
        await one.serving(NOT_SERVING)
        end_s = time.monotonic() + 60
        with pytest.raises(UnavailableError, match="no server answers"):
            await until([one], search, lambda _: time.monotonic() > end_s)


async def test_readiness_of_several_is_that_of_one(pair, ask):
    """Whoever waits for a cluster waits for somebody to answer, and is told where nobody does."""
    one, two = pair
    await one.serving(NOT_SERVING)
    assert await ask(target_of(*pair), "wait_ready", timeout_s=60) is None
    await two.serving(NOT_SERVING)
    with pytest.raises(UnavailableError, match="not ready after"):
        await ask(target_of(*pair), "wait_ready", timeout_s=0.3)


@pytest.mark.parametrize("make", [Client, AsyncClient])
async def test_a_token_needs_every_address_to_be_of_this_machine(make):
    """One address in a list that is another machine's, or a name, and the token stays here."""
    for target in (
        "ipv4:127.0.0.1:1,10.0.0.1:1", "ipv6:[::1]:1,[2001:db8::1]:1", "dns:///a:1",
        "dns://10.0.0.1/localhost:1",
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match="plaintext"):
            make(target, token="secret")
    client = make("ipv4:127.0.0.1:1,127.0.0.2:1", token="secret")
    closed = client.close()
    if closed is not None:
        await closed
