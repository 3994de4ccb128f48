"""SearchService over gRPC: convert, search, convert."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from router import reply
from router.admission import Admission
from router.door import Door, Wait, wait_of
from router.live_recall import LiveRecall
from router.query import resolve
from router.registry import Registry
from router.search import Searcher, Timings
from router.search_traces import tell_found, tell_query
from router.served import describe
from router.slow_queries import Answer, SlowQueries
from shoal.errors import InvalidArgumentError, OverloadedError, ShoalError
from shoal.rpc import metrics
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S, Deadline
from shoal.rpc.request_id import current_request_id
from shoal.rpc.status import as_shoal_error, to_status
from shoal.rpc.unknown import refuse_unknown_fields
from shoal.tracing.spans import current_trace
from shoal.tracing.tracer import item_span
from shoal.v1 import priority_pb2, search_pb2_grpc
from shoal.v1 import search_pb2 as pb

logger = logging.getLogger(__name__)

MAX_STREAM_ITEMS = 256
"""Items of one stream under way at once; the stream is read on as their answers are taken."""

MAX_TIMEOUT_MS = 600_000

_STAGES = {
    name: metrics.STAGE_SECONDS.labels(name)
    for name in ("door", "encode", "search", "merge", "fetch")
}
_REFUSED, _ = metrics.refused_by("router")
_FULL, _PARTIAL = (metrics.ANSWERS.labels(coverage) for coverage in metrics.COVERAGES)
_ITEM_ANSWERED = metrics.STREAM_ITEMS.labels(grpc.StatusCode.OK.name)
_ITEM_LEFT = metrics.STREAM_ITEMS.labels(grpc.StatusCode.CANCELLED.name)
metrics.STREAM_ITEMS.labels(grpc.StatusCode.INTERNAL.name)  # 0 and not absent, for the alarm
_ITEM_SECONDS = metrics.REQUEST_SECONDS.labels("StreamSearch")


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """The public door."""

    def __init__(
        self,
        registry: Registry,
        searcher: Searcher,
        admission: Admission,
        live_recall: LiveRecall | None = None,
        *,
        slow_queries: SlowQueries | None = None,
    ) -> None:
        """Without `live_recall`, nothing is measured; with `slow_queries`, searches are noted."""
        self.answer: Answer = (
            self._answer if slow_queries is None else slow_queries.watching(self._answer)
        )
        """What Search answers: for another door of this process, too. Raises ShoalError."""
        self._registry = registry
        self._searcher = searcher
        self._admission = admission
        self._live_recall = live_recall
        self._door = Door(wait_s=admission.wait_s)

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SearchResponse:
        """Answers one request."""
        if request.priority != priority_pb2.PRIORITY_BULK:
            wait = wait_of(context.invocation_metadata() or (), context.time_remaining())
            self._check_door(wait, request)
        return await self.answer(request, Deadline.of(context))

    async def StreamSearch(
        self,
        request_iterator: AsyncIterator[pb.StreamSearchRequest],
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 -- gRPC's signature
    ) -> AsyncIterator[pb.StreamSearchResponse]:
        """Answers items as they come ready."""
        answers: asyncio.Queue[pb.StreamSearchResponse | None] = asyncio.Queue()
        room = asyncio.Semaphore(MAX_STREAM_ITEMS)
        # one task, ended here and nowhere else; a TaskGroup around a yield would turn the stream's
        # end into an error
        reading = asyncio.ensure_future(self._answer_items(request_iterator, answers, room))
        try:
            while (response := await answers.get()) is not None:
                yield response
                room.release()  # only now: a client that doesn't read holds back its own items
            await reading
        finally:
            reading.cancel()

    async def _answer_items(
        self,
        items: AsyncIterator[pb.StreamSearchRequest],
        answers: "asyncio.Queue[pb.StreamSearchResponse | None]",
        room: asyncio.Semaphore,
    ) -> None:
        async def answer(item: pb.StreamSearchRequest) -> None:
            with item_span() as ended:
                response = await self._answer_item(item)
                ended(response.status.code)
            answers.put_nowait(response)

        try:
            async with asyncio.TaskGroup() as tasks:
                async for item in items:
                    await room.acquire()
                    tasks.create_task(answer(item))
        finally:
            answers.put_nowait(None)

    async def ListIndexes(
        self,
        request: pb.ListIndexesRequest,  # noqa: ARG002 -- gRPC's signature
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 -- gRPC's signature
    ) -> pb.ListIndexesResponse:
        """Names the indexes that are known; one without a reachable shard is left out."""
        indexes = sorted(self._registry.served.indexes.values(), key=lambda index: index.name)
        known = [(index, index.described) for index in indexes]
        return pb.ListIndexesResponse(
            indexes=[reply.to_index(index, told) for index, told in known if told is not None]
        )

    async def GetIndex(
        self,
        request: pb.GetIndexRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 -- gRPC's signature
    ) -> pb.GetIndexResponse:
        """Describes one index."""
        index = self._registry.served.index(request.index)
        return pb.GetIndexResponse(index=reply.to_index(index, describe(index)))

    def _check_door(self, wait: Wait | None, request: pb.SearchRequest) -> None:
        if wait is None:
            return
        _STAGES["door"].observe(wait.waited_s)
        try:
            self._door.check(wait, time.monotonic())
        except OverloadedError:
            _REFUSED.inc(len(request.queries))
            self._admission.note_refusal()
            raise

    async def _answer(self, request: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
        begun_s = time.monotonic()
        served = self._registry.served
        index = served.index(request.index)
        query = resolve(request, describe(index))
        with self._admission.admit(query, deadline.at_s):
            queue_s = time.monotonic() - begun_s
            trace = current_trace()
            if trace is not None:
                tell_query(trace, query, begun_s, queue_s)
            with self._registry.users.hold(index.name, index.version):
                found = await self._searcher.search(query, served, index, deadline)
            if trace is not None:
                tell_found(trace, query, found, begun_s + queue_s)
            metrics.QUERIES.inc(query.n_queries)
            _observe(found.timings, has_texts=bool(query.texts))
            _count_answer(found.coverage)
            clocked = reply.Clocked(queue_s=queue_s, total_s=time.monotonic() - begun_s)
            response = reply.to_response(query, found, clocked)
        if self._live_recall is not None:
            self._live_recall.offer(query, found)
        response.request_id = current_request_id()
        return response

    async def _answer_item(self, item: pb.StreamSearchRequest) -> pb.StreamSearchResponse:
        begun_s = time.monotonic()
        try:
            refuse_unknown_fields(item)
            deadline = _item_deadline(item)
            response = await self.answer(item.request, deadline)
            _ITEM_ANSWERED.inc()
            _ITEM_SECONDS.observe(time.monotonic() - begun_s)
            return pb.StreamSearchResponse(item_id=item.item_id, response=response)
        except asyncio.CancelledError:  # its stream was given up
            _ITEM_LEFT.inc()
            _ITEM_SECONDS.observe(time.monotonic() - begun_s)
            raise
        except ShoalError as error:
            _count_failed_item(error, time.monotonic() - begun_s)
            return pb.StreamSearchResponse(item_id=item.item_id, status=to_status(error))
        except Exception as failure:
            logger.exception("an item failed, request %s", current_request_id())
            ours = as_shoal_error(failure)
            _count_failed_item(ours, time.monotonic() - begun_s)
            return pb.StreamSearchResponse(item_id=item.item_id, status=to_status(ours))


def _item_deadline(item: pb.StreamSearchRequest) -> Deadline:
    if not 1 <= len(item.item_id.encode()) <= 128:
        raise InvalidArgumentError("item_id must have 1 to 128 bytes", field="item_id")
    if not item.HasField("timeout_ms"):
        return Deadline.after(DEFAULT_TIMEOUT_S)
    if not 1 <= item.timeout_ms <= MAX_TIMEOUT_MS:
        raise InvalidArgumentError(
            f"timeout_ms is {item.timeout_ms}; it must be 1 to {MAX_TIMEOUT_MS}",
            field="timeout_ms",
        )
    return Deadline.after(item.timeout_ms / 1e3)


def _count_answer(coverage: float) -> None:
    if coverage >= 1.0:
        _FULL.inc()
    else:
        _PARTIAL.inc()
        metrics.PARTIAL_COVERAGE.observe(coverage)


def _count_failed_item(error: ShoalError, seconds: float) -> None:
    metrics.STREAM_ITEMS.labels(error.code.name).inc()
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        _ITEM_SECONDS.observe(seconds)


def _observe(timings: Timings, *, has_texts: bool) -> None:
    if has_texts:  # vectors have no such stage
        _STAGES["encode"].observe(timings.encode_s)
    _STAGES["search"].observe(timings.search_s)
    _STAGES["merge"].observe(timings.merge_s)
    _STAGES["fetch"].observe(timings.fetch_s)
