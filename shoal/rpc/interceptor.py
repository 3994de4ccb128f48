"""The one interceptor: it asks who calls, and around every handler of ours it adopts the request
id, refuses what can't be read and unknown fields, translates errors, counts, and audits.

Handlers raise ShoalErrors and know nothing of status codes. A fault of ours is logged with its
traceback under the request id; the caller gets the id and no internals.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter

from shoal.errors import InternalError, InvalidArgumentError, PermissionDeniedError, ShoalError
from shoal.rpc import metrics
from shoal.rpc.access import Guard, is_audited
from shoal.rpc.request_id import METADATA_KEY, adopt_request_id, current_request_id
from shoal.rpc.status import as_shoal_error, given_up_code, short_message, trailing_metadata
from shoal.rpc.unknown import refuse_unknown_fields
from shoal.tracing.tracer import Tracer, traced_stream, traced_unary

logger = logging.getLogger(__name__)
audit = logging.getLogger("shoal.audit")
audit.setLevel(logging.INFO)  # whatever --log-level says of other lines

_REFUSED = "refused"
"""What metrics call an RPC that was refused at the door."""
_caller: contextvars.ContextVar[str] = contextvars.ContextVar("shoal_caller", default="")

# quoted: grpc's classes are generic for the type checker alone
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "Handler | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class ShoalInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our own services; gRPC's own (health, reflection) pass as they are.

    With a guard every call is judged first, before a byte of its request is read; with a tracer
    those that are sampled are traced.
    """

    def __init__(self, guard: Guard | None = None, tracer: Tracer | None = None) -> None:
        self._guard = guard
        self._tracer = tracer
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """The wrapped handler, made once a method."""
        method = handler_call_details.method
        if self._guard is not None:
            # pairs, whatever their class
            metadata: Any = handler_call_details.invocation_metadata or ()
            verdict = self._guard.judge(method, metadata, time.time())
            if verdict.refusal is not None:
                return _refusing(method, verdict.caller, verdict.refusal)
            _caller.set(verdict.caller)
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler: MaybeHandler = await continuation(handler_call_details)
            if handler is None or not method.startswith("/shoal."):
                return handler
            if self._tracer is not None:
                handler = _traced(method, handler, self._tracer)
            wrapped = self._wrapped[method] = _wrap(method, handler, self._guard)
        return wrapped


def _refusing(method: str, caller: str, refusal: ShoalError) -> Handler:
    # of the streaming kind whatever the method is: gRPC reads no request for it
    async def handle(requests: Any, context: Context) -> None:  # noqa: ARG001 -- gRPC passes them
        _adopt(context)
        if isinstance(refusal, PermissionDeniedError):
            _audit(method, caller, refusal.code.name)
        # the method's name is the caller's to choose, so it is no label
        await _refuse(_REFUSED, context, refusal)

    return grpc.stream_stream_rpc_method_handler(handle)


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


def _wrap(method: str, handler: Handler, guard: Guard | None) -> Handler:
    read = _reader(handler.request_deserializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _around_unary(method, handler.unary_unary),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _around_stream(method, handler.stream_stream, guard),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    raise TypeError(f"{method}: no service of ours streams in one direction only")


def _traced(method: str, handler: Handler, tracer: Tracer) -> Handler:
    """The handler with traces, within what refuses calls and translates failures."""
    if handler.unary_unary is not None:
        behavior = traced_unary(
            tracer,
            method,
            handler.unary_unary,
            request_id=current_request_id,
            code_of=lambda failure: as_shoal_error(failure).code.name,
        )
        return grpc.unary_unary_rpc_method_handler(
            behavior, handler.request_deserializer, handler.response_serializer
        )
    if handler.stream_stream is None:
        return handler  # refused by `_wrap`
    streaming: Any = handler.stream_stream
    streamed: Any = traced_stream(tracer, method, streaming, request_id=current_request_id)
    return grpc.stream_stream_rpc_method_handler(
        streamed, handler.request_deserializer, handler.response_serializer
    )


def _around_unary(method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
    rpc = method.rpartition("/")[2]
    audited = is_audited(method)
    seconds = metrics.REQUEST_SECONDS.labels(rpc)
    ok = _counted(rpc)

    async def handle(request: Message | _Garbled, context: Context) -> Any:
        begun_s = time.perf_counter()
        _adopt(context)
        try:
            message = _readable(request)
            refuse_unknown_fields(message)
            response = await behavior(message, context)
        except asyncio.CancelledError:
            # the caller left or its deadline passed; what it began may go on
            code = given_up_code(context.time_remaining())
            metrics.REQUESTS.labels(rpc, code.name).inc()
            seconds.observe(time.perf_counter() - begun_s)
            if audited:
                _audit(method, _caller.get(), code.name)
            raise
        except Exception as failure:  # noqa: BLE001 -- the one place where every failure ends
            code = as_shoal_error(failure).code
            if audited:
                _audit(method, _caller.get(), code.name)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                seconds.observe(time.perf_counter() - begun_s)
            await _refuse(rpc, context, failure)
        if audited:
            _audit(method, _caller.get(), grpc.StatusCode.OK.name)
        ok.inc()
        seconds.observe(time.perf_counter() - begun_s)
        return response

    return handle


def _around_stream(
    method: str, behavior: Callable[..., Any], guard: Guard | None
) -> Callable[..., Any]:
    rpc = method.rpartition("/")[2]
    ok = _counted(rpc)

    # each message is judged, since a stream may outlive its token
    async def messages(
        requests: AsyncIterator[Message | _Garbled], metadata: Any
    ) -> AsyncIterator[Message]:
        async for request in requests:
            if guard is not None:
                verdict = guard.judge(method, metadata, time.time())
                if verdict.refusal is not None:
                    raise verdict.refusal
            yield _readable(request)

    # not a generator itself: a client's leaving must end the behavior here and now, and not when
    # somebody collects it
    async def handle(requests: AsyncIterator[Message | _Garbled], context: Context) -> None:
        _adopt(context)
        try:
            judged = messages(requests, context.invocation_metadata() or ())
            async with aclosing(behavior(judged, context)) as responses:
                async for response in responses:
                    await context.write(response)
        except asyncio.CancelledError:
            metrics.REQUESTS.labels(rpc, given_up_code(context.time_remaining()).name).inc()
            raise
        except grpc.aio.InternalError:
            metrics.REQUESTS.labels(rpc, given_up_code(context.time_remaining()).name).inc()
            return  # the client left in the middle of an answer: there is nobody to tell
        except Exception as failure:  # noqa: BLE001 -- as above
            await _refuse(rpc, context, failure)
        ok.inc()

    return handle


def _counted(rpc: str) -> Counter:
    """Counts answers; our own faults are 0 and not absent, so that an alarm sees the first."""
    metrics.REQUESTS.labels(rpc, grpc.StatusCode.INTERNAL.name)
    return metrics.REQUESTS.labels(rpc, grpc.StatusCode.OK.name)


def _adopt(context: Context) -> None:
    given = ""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA_KEY:
            given = value if isinstance(value, str) else ""
    request_id = adopt_request_id(given)
    context.set_trailing_metadata(((METADATA_KEY, request_id),))


def _audit(method: str, caller: str, outcome: str) -> None:
    who, request_id = caller or "anonymous", current_request_id()
    audit.info(
        "%s called %s: %s, request %s", who, method, outcome, request_id,
        extra={"who": who, "rpc": method, "outcome": outcome},
    )  # fmt: skip


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


def _request_id(context: Context) -> str:
    for key, value in context.trailing_metadata() or ():
        if key == METADATA_KEY:
            return str(value)
    return ""
