"""Who is traced: the caller's decision holds, and where there is none a share of what begins here.

The rule of OpenTelemetry's ParentBased(TraceIdRatioBased), decided before anything is made: of a
request that isn't sampled there is a look at its metadata, one drawn number, and nothing else.
"""

import asyncio
import contextlib
import contextvars
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from shoal.tracing.context import context_of, is_within, sampling_bound
from shoal.tracing.shared import rpc_attributes
from shoal.tracing.spans import Emit, Trace, adopt_trace, leave_trace

_ROOTS = frozenset(("shoal.v1.SearchService/Search", "shoal.v1.SearchService/StreamSearch"))
"""What a trace may begin with; every other call is traced for its caller's sake alone."""

_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""Codes that are a server's error; the others are its caller's.

Source: OpenTelemetry's semantic conventions for gRPC.
"""

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Tracer:
    """Begins traces in one process."""

    def __init__(
        self,
        emit: Emit,
        *,
        share: float = 0.0,
        draw: Callable[[int], int] = random.getrandbits,
    ) -> None:
        """`share` of the searches that begin here are sampled; `draw(64)` gives random bits."""
        self._emit = emit
        self._bound = sampling_bound(share)
        self._draw = draw

    def begin(
        self,
        method: str,
        metadata: Iterable[tuple[str, str | bytes]],
        *,
        start_s: float,
        request_id: str,
    ) -> Trace | None:
        """The trace of a call of `package.Service/Method`; None where it isn't sampled."""
        parent = context_of(metadata)
        if parent is not None:
            if not parent.is_sampled:
                return None
            trace_id = parent.trace_id
        else:
            low_bits = self._draw(64)
            if method not in _ROOTS or not is_within(low_bits, self._bound):
                return None
            trace_id = (self._draw(64) or 1) << 64 | low_bits
        trace = Trace(method, start_s, trace_id=trace_id, parent=parent, emit=self._emit)
        trace.root.attributes |= rpc_attributes(method)
        trace.root.say(request_id=request_id)
        return trace


def finish(trace: Trace, code: str) -> None:
    """Ends a request's trace with the name of its gRPC status code."""
    trace.finish(code=code, is_error=code in _FAULTS)


def traced_unary(
    tracer: Tracer,
    method: str,
    behavior: Callable[..., Awaitable[Any]],
    *,
    request_id: Callable[[], str],
    code_of: Callable[[Exception], str],
) -> Callable[..., Awaitable[Any]]:
    """The behavior of a handler with a trace around it, where its call is sampled.

    Args:
        tracer: who decides.
        method: the RPC, as gRPC writes it: `/package.Service/Method`.
        behavior: what answers.
        request_id: that of the call under way.
        code_of: the name of the status code that a failure of `behavior` becomes.
    """
    name = method.removeprefix("/")

    async def handle(message: Any, context: Any) -> Any:
        start_s = time.monotonic()
        trace = tracer.begin(
            name,
            context.invocation_metadata() or (),
            start_s=start_s,
            request_id=request_id(),
        )
        if trace is None:
            return await behavior(message, context)
        adopt_trace(trace)
        try:
            response = await behavior(message, context)
        except asyncio.CancelledError:
            finish(trace, "CANCELLED")
            raise
        except Exception as failure:
            finish(trace, code_of(failure))
            raise
        finish(trace, "OK")
        return response

    return handle


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """What the searches of one call are begun with: a stream's items, a list's parts."""

    tracer: Tracer
    method: str
    metadata: Iterable[tuple[str, str | bytes]]
    request_id: str


_stream: contextvars.ContextVar[_Stream | None] = contextvars.ContextVar(
    "shoal_stream", default=None
)


def traced_stream(
    tracer: Tracer,
    method: str,
    behavior: Callable[..., AsyncIterator[Any]],
    *,
    request_id: Callable[[], str],
) -> Callable[..., AsyncIterator[Any]]:
    """The behavior of a streaming handler whose items may each begin a trace (`item_span`).

    A stream lives as long as its client likes, so it has no span of its own; the span that its
    metadata name is the parent of every item's.
    """
    name = method.removeprefix("/")

    def handle(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        metadata = context.invocation_metadata() or ()
        begin_items(tracer, name, metadata, request_id=request_id())
        return behavior(messages, context)

    return handle


def begin_items(
    tracer: Tracer, method: str, metadata: Iterable[tuple[str, str | bytes]], *, request_id: str
) -> None:
    """Says of the call under way what each of its searches (`item_span`) is begun with."""
    _stream.set(_Stream(tracer=tracer, method=method, metadata=metadata, request_id=request_id))


@contextlib.contextmanager
def item_span() -> Iterator[Callable[[int], None]]:
    """Around one search of the current call; traced where it is sampled.

    Gives what is to be called with the number of the item's status code.
    """
    stream = _stream.get()
    trace = None
    if stream is not None:
        trace = stream.tracer.begin(
            stream.method, stream.metadata, start_s=time.monotonic(), request_id=stream.request_id
        )
    if trace is None:
        yield _ignore
        return
    token = adopt_trace(trace)
    codes = [grpc.StatusCode.CANCELLED.value[0]]  # unless its end is told
    try:
        yield codes.append
    finally:
        leave_trace(token)
        finish(trace, _NAMES.get(codes[-1], grpc.StatusCode.UNKNOWN.name))


def _ignore(_code: int) -> None:
    return None
