"""The one interceptor: around every handler it adopts the request id, refuses unknown fields,
translates errors, and counts.

Handlers raise ShoalErrors and know nothing of status codes. A fault of ours is logged with its
traceback under the request id; the caller gets the id and no internals.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message

from shoal.errors import DeadlineExceededError, InternalError, ShoalError
from shoal.rpc import metrics
from shoal.rpc.request_id import METADATA_KEY, adopt_request_id
from shoal.rpc.status import trailing_metadata
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


def _wrap(method: str, handler: Handler) -> Handler:
    rpc = method.rpartition("/")[2]
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _around_unary(rpc, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _around_stream(rpc, handler.stream_stream),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
    raise TypeError(f"{method}: no service of ours streams in one direction only")


def _around_unary(rpc: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    seconds = metrics.REQUEST_SECONDS.labels(rpc)
    ok = metrics.REQUESTS.labels(rpc, grpc.StatusCode.OK.name)

    async def handle(request: Message, context: Context) -> Any:
        begun_s = time.perf_counter()
        _adopt(context)
        try:
            refuse_unknown_fields(request)
            response = await behavior(request, context)
        except Exception as failure:  # noqa: BLE001 -- the one place where every failure ends
            await _refuse(rpc, context, failure)
        ok.inc()
        seconds.observe(time.perf_counter() - begun_s)
        return response

    return handle


def _around_stream(rpc: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    ok = metrics.REQUESTS.labels(rpc, grpc.StatusCode.OK.name)

    async def handle(requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Any]:
        _adopt(context)
        try:
            async for response in behavior(requests, context):
                yield response
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
    await context.abort(error.code, error.message, trailing)
    raise AssertionError("abort returned")


def as_shoal_error(failure: Exception) -> ShoalError:
    """The error to tell: ours as it is, a passed deadline as such, anything else as INTERNAL."""
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
