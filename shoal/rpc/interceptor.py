"""The one interceptor: around every handler it adopts the request id, refuses what can't be read
and unknown fields, translates errors, and counts.

Handlers raise ShoalErrors and know nothing of status codes. A fault of ours is logged with its
traceback under the request id; the caller gets the id and no internals.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from shoal.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ShoalError,
)
from shoal.rpc import metrics
from shoal.rpc.request_id import METADATA_KEY, adopt_request_id
from shoal.rpc.status import short_message, trailing_metadata
from shoal.rpc.unknown import refuse_unknown_fields

logger = logging.getLogger(__name__)

# quoted: grpc's classes are generic for the type checker alone
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "Handler | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class ShoalInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services; gRPC's own (health, reflection) pass as they are."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """The wrapped handler, made once a method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler: MaybeHandler = await continuation(handler_call_details)
            if handler is None or not method.startswith("/shoal."):
                return handler
            wrapped = self._wrapped[method] = _wrap(method, handler)
        return wrapped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Garbled:
    """A request whose bytes are no message; gRPC itself would answer with our internals."""

    detail: str


def _reader(
    deserializer: Callable[[bytes], Message] | None,
) -> Callable[[bytes], "Message | _Garbled"]:
    assert deserializer is not None, "generated handlers have one"

    def read(data: bytes) -> Message | _Garbled:
        try:
            return deserializer(data)
        except DecodeError as failure:
            return _Garbled(detail=str(failure))

    return read


def _readable(request: "Message | _Garbled") -> Message:
    if isinstance(request, _Garbled):
        raise InvalidArgumentError(f"the request is not a valid message: {request.detail}")
    return request


def _wrap(method: str, handler: Handler) -> Handler:
    rpc = method.rpartition("/")[2]
    read = _reader(handler.request_deserializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _around_unary(rpc, handler.unary_unary),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _around_stream(rpc, handler.stream_stream),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    raise TypeError(f"{method}: no service of ours streams in one direction only")


def _around_unary(rpc: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    seconds = metrics.REQUEST_SECONDS.labels(rpc)
    ok = metrics.REQUESTS.labels(rpc, grpc.StatusCode.OK.name)

    async def handle(request: Message | _Garbled, context: Context) -> Any:
        begun_s = time.perf_counter()
        _adopt(context)
        try:
            message = _readable(request)
            refuse_unknown_fields(message)
            response = await behavior(message, context)
        except Exception as failure:  # noqa: BLE001 -- the one place where every failure ends
            await _refuse(rpc, context, failure)
        ok.inc()
        seconds.observe(time.perf_counter() - begun_s)
        return response

    return handle


def _around_stream(rpc: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    ok = metrics.REQUESTS.labels(rpc, grpc.StatusCode.OK.name)

    async def messages(requests: AsyncIterator[Message | _Garbled]) -> AsyncIterator[Message]:
        async for request in requests:
            yield _readable(request)

    # not a generator itself: a client's leaving must end the behavior here and now, and not when
    # somebody collects it
    async def handle(requests: AsyncIterator[Message | _Garbled], context: Context) -> None:
        _adopt(context)
        try:
            async with aclosing(behavior(messages(requests), context)) as responses:
                async for response in responses:
                    await context.write(response)
        except grpc.aio.InternalError:
            return  # the client left in the middle of an answer: there is nobody to tell
        except Exception as failure:  # noqa: BLE001 -- as above
            await _refuse(rpc, context, failure)
        ok.inc()

    return handle


def _adopt(context: Context) -> None:
    given = ""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA_KEY:
            given = value if isinstance(value, str) else ""
    request_id = adopt_request_id(given)
    context.set_trailing_metadata(((METADATA_KEY, request_id),))


async def _refuse(rpc: str, context: Context, failure: Exception) -> NoReturn:
    if isinstance(failure, grpc.aio.AbortError):
        raise failure
    error = as_shoal_error(failure)
    metrics.REQUESTS.labels(rpc, error.code.name).inc()
    if isinstance(error, InternalError):
        logger.error("%s failed, request %s", rpc, _request_id(context), exc_info=failure)
    trailing = (*trailing_metadata(error), (METADATA_KEY, _request_id(context)))
    await context.abort(error.code, short_message(error), trailing)
    raise AssertionError("abort returned")


def as_shoal_error(failure: Exception) -> ShoalError:
    """The error to tell: ours as it is, a passed deadline as such, anything else as INTERNAL."""
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, ShoalError):
        return failure
    if isinstance(failure, TimeoutError | asyncio.TimeoutError):
        return DeadlineExceededError("the deadline passed before the answer was ready")
    return InternalError("internal error; the log has it under this request id")


def _request_id(context: Context) -> str:
    for key, value in context.trailing_metadata() or ():
        if key == METADATA_KEY:
            return str(value)
    return ""
