"""Work that several requests travel in: one span, a child of its first rider's, linked to all.

A rider's trace thus shows the work, or, where another trace holds it, a link to it. Costs nothing
where no rider is sampled.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType

import grpc

from shoal.tracing.context import Metadata, metadata_of
from shoal.tracing.spans import Kind, Span


def shared_span(name: str, riders: Sequence[Span], start_s: float) -> Span:
    """The span of what these riders' spans wait for; whoever opens it ends and sends it."""
    first = riders[0]
    shared = Span(trace=first.trace, name=name, start_s=start_s, parent_id=first.span_id)
    for rider in riders:
        shared.link(rider)
        if rider is not first:
            rider.link(shared)
    return shared


def rpc_attributes(method: str) -> dict[str, str | int | float | bool]:
    """What OpenTelemetry's conventions say of a call of `package.Service/Method`."""
    return {"rpc.system.name": "grpc", "rpc.method": method}


class _NoCall:
    """A call in which nobody is sampled."""

    def __enter__(self) -> Metadata:
        return ()

    def __exit__(self, *_ended: object) -> None:
        return None


class SharedCall:
    """A call to another process, as a context; it gives the metadata that take the trace there."""

    def __init__(self, method: str, address: str, riders: Sequence[Span], n_items: int) -> None:
        self._span = span = shared_span(method, riders, time.monotonic())
        span.kind = Kind.CLIENT
        span.attributes |= rpc_attributes(method)
        host, _, port = address.rpartition(":")
        span.attributes["server.address"] = host.strip("[]")
        if port.isdigit():
            span.attributes["server.port"] = int(port)
        span.say(batch_size=n_items, batch_sampled=len(riders))

    def __enter__(self) -> Metadata:
        return metadata_of(self._span.context)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        failure: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        code = _code_of(failure)
        self._span.end(time.monotonic(), code=code, is_error=code not in {"OK", "CANCELLED"})
        self._span.trace.emit([self._span])


_NO_CALL = _NoCall()


def shared_call(
    method: str, address: str, riders: Sequence[Span], n_items: int
) -> SharedCall | _NoCall:
    """One call that `riders` share, as a context that gives the metadata to send with it.

    Args:
        method: `package.Service/Method`.
        address: who is called, host:port.
        riders: the spans of those who are sampled; often none.
        n_items: queries, texts or passages in the call, of those who are not sampled too.
    """
    return SharedCall(method, address, riders, n_items) if riders else _NO_CALL


def _code_of(failure: BaseException | None) -> str:
    if failure is None:
        return "OK"
    if isinstance(failure, grpc.RpcError):
        return str(failure.code().name)
    return "CANCELLED" if isinstance(failure, asyncio.CancelledError) else "UNKNOWN"
