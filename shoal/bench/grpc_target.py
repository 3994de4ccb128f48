"""Shoal's own door as a target: the plan's requests through several channels, in turn."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from shoal.bench.plan import LoadPlan
from shoal.bench.target import OK, Reply, Served
from shoal.errors import UnsupportedError
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

STAGES = ("queue", "encode", "search", "merge", "fetch")

_SERVICE = pb.DESCRIPTOR.services_by_name["SearchService"].full_name
"""Channels balance over several routers by their health, as the client's do."""
_METHOD = f"/{_SERVICE}/Search"
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}

_Method = Callable[..., Awaitable[pb.SearchResponse]]


@asynccontextmanager
async def open_target(plan: LoadPlan) -> AsyncIterator["GrpcTarget"]:
    """The router at the plan's target.

    Raises:
        CorpusError, InvalidArgumentError: the queries can't be read or sent.
    """
    requests = plan.requests()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                open_channel(plan.target, plan.credentials, balanced=_SERVICE)
            )
            for _ in range(plan.connections)
        ]
        yield GrpcTarget(plan, requests, channels)


class GrpcTarget:
    """A router. Requests travel as the bytes they are; answers are parsed, as any client must."""

    stages = STAGES

    def __init__(
        self, plan: LoadPlan, requests: list[bytes], channels: list[grpc.aio.Channel]
    ) -> None:
        self.n_requests = len(requests)
        self._plan = plan
        self._requests = requests
        self._batches = plan.batches()
        self._methods: list[_Method] = [
            channel.unary_unary(_METHOD, None, pb.SearchResponse.FromString) for channel in channels
        ]
        self._n_sent = 0

    async def send(self, request: int, *, with_ids: bool) -> Reply:
        """One call; `shoal.bench.target.Target` says what of it is told."""
        self._n_sent += 1
        try:
            response = await self._call(self._requests[request])
        except grpc.RpcError as failure:
            code: grpc.StatusCode = failure.code()
            return Reply(code=code.name)
        return _reply(response, with_ids=with_ids)

    async def exact(self, request: int) -> Reply:
        """The same queries, searched exactly, after whatever else is waiting."""
        try:
            response = await self._call(self._plan.exact_request(self._batches[request]))
        except grpc.RpcError as failure:
            error = error_of(failure)
            raise UnsupportedError(f"exact search: {error.message}") from failure
        return _reply(response, with_ids=True)

    async def refuse_bad_plan(self) -> Served:
        """One call, whose refusal is raised."""
        try:
            answer = await self._call(self._requests[0])
        except grpc.RpcError as failure:
            if failure.code() in _REFUSALS:
                raise error_of(failure) from failure
            return Served()
        return Served(index=answer.index, version=answer.version)

    def _call(self, request: bytes) -> Awaitable[pb.SearchResponse]:
        return self._methods[self._n_sent % len(self._methods)](
            request, timeout=self._plan.timeout_s, metadata=self._plan.credentials.metadata
        )


def _reply(response: pb.SearchResponse, *, with_ids: bool) -> Reply:
    took = response.timings
    return Reply(
        code=OK,
        degraded=response.coverage < 1.0,
        coverage=response.coverage,
        stages_ms=(took.queue_ms, took.encode_ms, took.search_ms, took.merge_ms, took.fetch_ms),
        served=Served(index=response.index, version=response.version),
        ids=tuple(tuple(hit.passage.id for hit in result.hits) for result in response.results)
        if with_ids
        else None,
    )
