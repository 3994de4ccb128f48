"""A scripted router behind a real server, and one way to ask it through either client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from shoal.client import AsyncClient, Client
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

Step = Any
"""What the server does with one call: an exception to raise, or a response to give."""


class ScriptedSearch(search_pb2_grpc.SearchServiceServicer):
    """Answers call i with step i, the last step again and again; keeps what it was asked."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.requests: list[Any] = []
        self.request_ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.target = ""
        self.health = HealthServicer()

    async def Search(self, request, context):
        return await self._answer(request, context)

    async def ListIndexes(self, request, context):
        return await self._answer(request, context)

    async def GetIndex(self, request, context):
        return await self._answer(request, context)

    async def StreamSearch(self, requests, context):
        raise NotImplementedError

    async def serving(self, status: Any) -> None:
        await self.health.set("shoal.v1.SearchService", status)

    async def _answer(self, request, context):
        step = self.steps[min(len(self.requests), len(self.steps) - 1)]
        self.requests.append(request)
        metadata = dict(context.invocation_metadata())
        self.metadata.append(metadata)
        self.request_ids.append(metadata.get("x-request-id", ""))
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
            return pb.SearchResponse(results=[pb.QueryResult() for _ in request.queries])
        return step


@contextlib.asynccontextmanager
async def _serving(servicer: ScriptedSearch) -> AsyncIterator[None]:
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer.health, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@pytest.fixture
async def router():
    servicer = ScriptedSearch()
    async with _serving(servicer):
        await servicer.serving(health_pb2.HealthCheckResponse.SERVING)
        yield servicer


@pytest.fixture
async def pair(router):
    """Two routers that serve."""
    other = ScriptedSearch()
    async with _serving(other):
        await other.serving(health_pb2.HealthCheckResponse.SERVING)
        yield router, other


@pytest.fixture(params=["sync", "async"])
def ask(request) -> Callable[..., Awaitable[Any]]:
    """`await ask(target, "search", ...)`: the same call through the one client or the other."""

    async def through_sync(target: str, method: str, *args: Any, **options: Any) -> Any:
        def call() -> Any:
            with Client(target) as client:
                return getattr(client, method)(*args, **options)

        return await asyncio.to_thread(call)

    async def through_async(target: str, method: str, *args: Any, **options: Any) -> Any:
        async with AsyncClient(target) as client:
            return await getattr(client, method)(*args, **options)

    return through_sync if request.param == "sync" else through_async
