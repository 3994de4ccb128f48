"""The client: `Client` for ordinary programs, `AsyncClient` for asyncio ones, one surface.

Both build their requests, read their answers and decide about retries with the same pure functions
(`shoal.requests`, `shoal.answers`, `shoal.attempts`); only how a call is awaited differs.
Needs grpcio, protobuf and numpy, and nothing of the servers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.answers import Answer, Answers, Index, answer_of, answers_of, index_of
from shoal.attempts import Attempts, checked, not_ready, refuse_oversized
from shoal.credentials import Credentials, Tls
from shoal.requests import (
    Queries,
    SearchOptions,
    Vector,
    many_queries,
    one_query,
    search_request,
)
from shoal.rpc.channel import open_channel, open_sync_channel
from shoal.rpc.deadline import Deadline, check_timeout
from shoal.target import check_target
from shoal.tracing.caller import call_span
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

DEFAULT_TIMEOUT_S = 10.0
_SERVICE = pb.DESCRIPTOR.services_by_name["SearchService"].full_name
_SEARCH = f"{_SERVICE}/Search"
_READY_POLL_S = 0.05

_Response = TypeVar("_Response")


class Client:
    """A blocking client of one router, or of several of one cluster; threads may share it."""

    def __init__(self, target: str, *, token: str = "", tls: Tls | None = None) -> None:
        """Opens a channel to `target`, HOST:PORT; connects at the first call.

        Args:
            target: the router; or several as ipv4:IP:PORT,IP:PORT (ipv6:[IP]:PORT likewise), or
                as dns:///HOST:PORT for all addresses of a name. They are asked in turn, those that
                don't serve are left out, and a call that one refused or broke off goes to another;
                one that can't reach its shards still answers, with the coverage that it has.
            token: what the server knows this program by, where it asks.
            tls: how to know the server; plaintext without it.

        Raises:
            InvalidArgumentError: `target` is no address, or a token would go there in plaintext.
            ConfigError: a file of `tls` can't be read.
        """
        self.target = check_target(target)
        self._credentials = Credentials(tls=tls, token=token)
        self._channel = open_sync_channel(target, self._credentials, balanced=_SERVICE)
        self._stub = search_pb2_grpc.SearchServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def search(
        self,
        query: str | None = None,
        *,
        vector: Vector | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Finds the passages for one query.

        Args:
            query: its text; or
            vector: its vector, of shape (dim,), float32 or float16.
            timeout_s: how long the answer may take, retries included.
            request_id: a name for this call in every process's log; made here where not given.
            options: as `SearchOptions` lists them.

        Raises:
            ShoalError: one of `shoal.errors`, with the call's status code and request id.
        """
        request = search_request(one_query(query, vector), options)
        return answer_of(self._search(request, timeout_s, request_id))

    def search_many(
        self,
        queries: Queries,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Answers:
        """Finds the passages for up to 1,024 queries in one call: texts, or an (n, dim) array."""
        request = search_request(many_queries(queries), options)
        return answers_of(self._search(request, timeout_s, request_id))

    def list_indexes(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Index, ...]:
        """Describes the indexes served."""
        response = self._call(self._stub.ListIndexes, pb.ListIndexesRequest(), timeout_s, None)
        return tuple(index_of(index) for index in response.indexes)

    def get_index(self, index: str = "", *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Index:
        """Describes one index; its name may be left out where one is served."""
        request = pb.GetIndexRequest(index=index)
        return index_of(self._call(self._stub.GetIndex, request, timeout_s, None).index)

    def wait_ready(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Returns once the cluster serves; UnavailableError where it doesn't within the time."""
        deadline = Deadline.after(check_timeout(timeout_s))
        attempts = Attempts(self.target, timeout_s, None, self._credentials)
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        why = "no answer"
        while not deadline.expired:
            try:
                status = self._health.Check(request, timeout=deadline.remaining_s()).status
            except grpc.RpcError as failure:
                probed = attempts.probe() if attempts.needs_probe(failure) else ""
                why = attempts.unready(failure, probed)
            else:
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
                why = "it is starting"
            time.sleep(min(_READY_POLL_S, deadline.remaining_s()))
        raise not_ready(self.target, timeout_s, why)

    def close(self) -> None:
        """Closes the channel; calls under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _search(
        self, request: pb.SearchRequest, timeout_s: float, request_id: str | None
    ) -> pb.SearchResponse:
        with call_span(_SEARCH, self.target):
            response = self._call(self._stub.Search, request, timeout_s, request_id)
            return checked(response, request)

    def _call(
        self, method: Callable[..., _Response], request: Any, timeout_s: float, given_id: str | None
    ) -> _Response:
        attempts = Attempts(self.target, timeout_s, given_id, self._credentials)
        refuse_oversized(request.ByteSize())
        while True:
            try:
                return method(request, **attempts.next())
            except grpc.RpcError as failure:
                probed = attempts.probe() if attempts.needs_probe(failure) else ""
                delay_s = attempts.delay_s(failure, probed)
            time.sleep(delay_s)


class AsyncClient:
    """The same client with await; belongs to the event loop that it was made in."""

    def __init__(self, target: str, *, token: str = "", tls: Tls | None = None) -> None:
        """Opens a channel to `target`, HOST:PORT; as `Client`.

        Raises:
            InvalidArgumentError: `target` is no address, or a token would go there in plaintext.
            ConfigError: a file of `tls` can't be read.
        """
        self.target = check_target(target)
        self._credentials = Credentials(tls=tls, token=token)
        self._channel = open_channel(target, self._credentials, balanced=_SERVICE)
        self._stub = search_pb2_grpc.SearchServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def search(
        self,
        query: str | None = None,
        *,
        vector: Vector | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Finds the passages for one query; see `Client.search`."""
        request = search_request(one_query(query, vector), options)
        return answer_of(await self._search(request, timeout_s, request_id))

    async def search_many(
        self,
        queries: Queries,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> Answers:
        """Finds the passages for up to 1,024 queries in one call; see `Client.search_many`."""
        request = search_request(many_queries(queries), options)
        return answers_of(await self._search(request, timeout_s, request_id))

    async def list_indexes(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[Index, ...]:
        """Describes the indexes served."""
        request = pb.ListIndexesRequest()
        response = await self._call(self._stub.ListIndexes, request, timeout_s, None)
        return tuple(index_of(index) for index in response.indexes)

    async def get_index(self, index: str = "", *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Index:
        """Describes one index; its name may be left out where one is served."""
        request = pb.GetIndexRequest(index=index)
        response = await self._call(self._stub.GetIndex, request, timeout_s, None)
        return index_of(response.index)

    async def wait_ready(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Returns once the cluster serves; UnavailableError where it doesn't within the time."""
        deadline = Deadline.after(check_timeout(timeout_s))
        attempts = Attempts(self.target, timeout_s, None, self._credentials)
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        why = "no answer"
        while not deadline.expired:
            try:
                reply = await self._health.Check(request, timeout=deadline.remaining_s())
            except grpc.RpcError as failure:
                unclear = attempts.needs_probe(failure)
                probed = await asyncio.to_thread(attempts.probe) if unclear else ""
                why = attempts.unready(failure, probed)
            else:
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                why = "it is starting"
            await asyncio.sleep(min(_READY_POLL_S, deadline.remaining_s()))
        raise not_ready(self.target, timeout_s, why)

    async def close(self) -> None:
        """Closes the channel; calls under way fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _search(
        self, request: pb.SearchRequest, timeout_s: float, request_id: str | None
    ) -> pb.SearchResponse:
        with call_span(_SEARCH, self.target):
            response = await self._call(self._stub.Search, request, timeout_s, request_id)
            return checked(response, request)

    async def _call(
        self,
        method: Callable[..., Awaitable[_Response]],
        request: Any,
        timeout_s: float,
        given_id: str | None,
    ) -> _Response:
        attempts = Attempts(self.target, timeout_s, given_id, self._credentials)
        refuse_oversized(request.ByteSize())
        while True:
            try:
                return await method(request, **attempts.next())
            except grpc.RpcError as failure:
                unclear = attempts.needs_probe(failure)
                probed = await asyncio.to_thread(attempts.probe) if unclear else ""
                delay_s = attempts.delay_s(failure, probed)
            await asyncio.sleep(delay_s)
