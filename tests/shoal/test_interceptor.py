"""What every handler is wrapped in: ids, refusals, deadlines and errors, over a real connection."""

import asyncio
import contextlib
import logging
import time

import grpc
import pytest
from prometheus_client import REGISTRY

from shoal.errors import InvalidArgumentError, NotFoundError
from shoal.rpc.channel import open_channel
from shoal.rpc.deadline import Deadline
from shoal.rpc.interceptor import ShoalInterceptor, _around_unary
from shoal.rpc.limits import server_options
from shoal.rpc.request_id import current_request_id
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

SEARCH = "/shoal.v1.SearchService/Search"
STREAM = "/shoal.v1.SearchService/StreamSearch"


class Servicer(search_pb2_grpc.SearchServiceServicer):
    """Does what the index's name says."""

    def __init__(self):
        self.n_ended = 0
        self.hanging = asyncio.Event()

    async def Search(self, request, context):
        if request.index == "bug":
            raise ValueError("secret: the password is 1234")
        if request.index == "group":
            raise ExceptionGroup("all", [NotFoundError("in a group")])
        if request.index == "long":
            raise InvalidArgumentError("ä" * 100_000, field="k")
        if request.index == "late":
            raise TimeoutError
        if request.index == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        remaining_s = Deadline.of(context).remaining_s()
        return pb.SearchResponse(request_id=current_request_id(), coverage=remaining_s)

    async def StreamSearch(self, request_iterator, context):
        try:
            async for item in request_iterator:
                if item.item_id == "bug":
                    raise ValueError("secret")
                if item.item_id == "flood":
                    for _ in range(100_000):
                        yield pb.StreamSearchResponse(item_id="x" * 10_000)
                yield pb.StreamSearchResponse(item_id=item.item_id)
        finally:
            self.n_ended += 1


@contextlib.asynccontextmanager
async def serving():
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    servicer = Servicer()
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield channel, servicer
    await server.stop(None)


async def search(channel, data=b"", **more):
    """A call with these very bytes: its response, metadata, and error."""
    call = channel.unary_unary(SEARCH)(data, **more)
    try:
        response = pb.SearchResponse.FromString(await call)
    except grpc.aio.AioRpcError as failure:
        return None, dict(failure.trailing_metadata()), failure
    return response, dict(await call.trailing_metadata()), None


def index(name: str) -> bytes:
    return pb.SearchRequest(index=name).SerializeToString()


async def test_the_request_id_is_adopted_and_echoed():
    """In the handler and the trailing metadata, for answers and errors; a bad one is replaced."""
    async with serving() as (channel, _):
        for given in ("r-1", None, "not valid"):
            metadata = (("x-request-id", given),) if given else ()
            response, trailing, _ = await search(channel, metadata=metadata)
            assert response.request_id == trailing["x-request-id"]
            assert (response.request_id == given) == (given == "r-1")
        _, trailing, failure = await search(
            channel, index("late"), metadata=(("x-request-id", "r-2"),)
        )
        assert trailing["x-request-id"] == "r-2"
        assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_bug_is_internal_and_tells_nothing(caplog):
    """The caller gets a request id; the log has the traceback under the same id."""
    async with serving() as (channel, _):
        with caplog.at_level(logging.ERROR, "shoal.rpc.interceptor"):
            _, trailing, failure = await search(channel, index("bug"))
        assert failure.code() is grpc.StatusCode.INTERNAL
        assert "1234" not in repr(failure) + repr(trailing)
        assert "ValueError" not in repr(failure)
        assert trailing["x-request-id"] in caplog.text
        assert "the password is 1234" in caplog.text


async def test_an_error_in_a_group_is_that_error():
    """A TaskGroup around a handler's work doesn't hide what was refused."""
    async with serving() as (channel, _):
        _, _, failure = await search(channel, index("group"))
        assert error_of(failure).message == "in a group"


@pytest.mark.parametrize("ending", ["deadline", "cancelled"])
async def test_a_call_that_nobody_waits_for_counts(ending):
    """With its time: a server that hangs would look fast if only its answers were counted."""

    def n_given_up():
        codes = (grpc.StatusCode.DEADLINE_EXCEEDED.name, grpc.StatusCode.CANCELLED.name)
        told = [
            REGISTRY.get_sample_value("shoal_requests_total", {"rpc": "Search", "code": code})
            for code in codes
        ]
        return sum(value or 0 for value in told)

    def n_timed():
        return REGISTRY.get_sample_value("shoal_request_duration_seconds_count", {"rpc": "Search"})

    async with serving() as (channel, servicer):
        await search(channel)
        timeout_s = 0.2 if ending == "deadline" else 60.0
        while not servicer.hanging.is_set():  # on a slow machine a call may end on its way
            before = n_given_up(), n_timed()
            call = channel.unary_unary(SEARCH)(index("hang"), timeout=timeout_s)
            if ending == "cancelled":
                await servicer.hanging.wait()
                call.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await call
            timeout_s *= 2
        async with asyncio.timeout(60):
            while n_given_up() == before[0]:  # noqa: ASYNC110 -- a counter tells nobody
                await asyncio.sleep(0.005)
        assert (n_given_up(), n_timed()) == (before[0] + 1, before[1] + 1)


def test_our_faults_are_0_before_there_is_one():
    """`increase` sees no first of a series that begins at 1: the alert would sleep through it."""
    labels = {"rpc": "NeverAsked", "code": "INTERNAL"}
    assert REGISTRY.get_sample_value("shoal_requests_total", labels) is None
    _around_unary("/shoal.v1.SearchService/NeverAsked", index)
    assert REGISTRY.get_sample_value("shoal_requests_total", labels) == 0


async def test_a_long_message_arrives_as_the_error_it_is():
    """Too much text must not turn a refusal into a broken call."""
    async with serving() as (channel, _):
        _, _, failure = await search(channel, index("long"))
        error = error_of(failure)
        assert isinstance(error, InvalidArgumentError)
        assert error.field == "k"


@pytest.mark.parametrize(
    "garbled", [b"\xff", b"\x0a\x02\xff\xfe", b"\x12\x7f", b"\x0a\xff\xff\xff\xff\x0f"]
)
async def test_bytes_that_are_no_message_are_invalid_arguments(garbled, caplog):
    """Broken tags, text that is not UTF-8, lengths past the end: refused, without a traceback."""
    async with serving() as (channel, _):
        _, trailing, failure = await search(channel, garbled)
        assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert trailing["x-request-id"]
        assert (await search(channel))[0] is not None
        call = channel.stream_stream(STREAM)(iter([garbled]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "Traceback" not in caplog.text


async def test_unknown_fields_are_refused():
    """What this release doesn't know is named by its number."""
    async with serving() as (channel, _):
        _, _, failure = await search(channel, index("x") + b"\xf8\x07\x01")
        assert error_of(failure).field == "127"


async def test_a_default_deadline_applies():
    """Without one 10 s are left; with one, what the caller set."""
    async with serving() as (channel, _):
        for given, left_s in (({}, 10.0), ({"timeout": 30.0}, 30.0)):
            begun_s = time.monotonic()
            response, _, _ = await search(channel, **given)
            took_s = time.monotonic() - begun_s
            assert left_s - took_s - 0.01 <= response.coverage
            assert response.coverage <= left_s * (1.01 if given else 1.0)  # gRPC rounds up


async def test_a_bug_in_a_stream_ends_it_as_internal():
    """Answers before it arrive; then INTERNAL without internals."""
    async with serving() as (channel, servicer):
        call = search_pb2_grpc.SearchServiceStub(channel).StreamSearch()
        await call.write(pb.StreamSearchRequest(item_id="good"))
        assert (await call.read()).item_id == "good"
        await call.write(pb.StreamSearchRequest(item_id="bug"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in repr(caught.value)
        assert servicer.n_ended == 1


async def test_a_client_that_leaves_ends_the_handler(caplog):
    """In the middle of an answer or between two: the handler's `finally` runs, and no log line."""
    async with serving() as (channel, servicer):
        for n, item_id in enumerate(("flood", "one")):
            call = search_pb2_grpc.SearchServiceStub(channel).StreamSearch()
            await call.write(pb.StreamSearchRequest(item_id=item_id))
            await call.read()
            call.cancel()
            end_s = asyncio.get_running_loop().time() + 60
            while servicer.n_ended == n:
                assert asyncio.get_running_loop().time() < end_s
                await asyncio.sleep(0.005)
        assert not caplog.records
