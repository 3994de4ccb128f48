"""The client's part: a call belongs to the trace of the program that makes it.

Needs no OpenTelemetry, and never imports it first: a program that traces has imported it already,
and one that hasn't has no span that a call could belong to. Knows none of the servers' tracing.
"""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from shoal.errors import ShoalError
from shoal.tracing.context import Metadata

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def call_span(method: str, target: str) -> AbstractContextManager[None]:
    """The span around a call with all its attempts, where the current span is recorded.

    Args:
        method: `package.Service/Method`.
        target: as the client was given it.
    """
    api = _api()
    if api is None or not api.get_current_span().is_recording():
        return _NOTHING
    return _recorded(api, method, target)


def propagated() -> Metadata:
    """What a call sends to belong to the current span, sampled or not; nothing without one."""
    api = _api()
    if api is None or not api.get_current_span().get_span_context().is_valid:
        return ()
    from opentelemetry import propagate  # noqa: PLC0415 -- not in a program without it

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((key.lower(), value) for key, value in carrier.items())


def _api() -> Any:
    return sys.modules.get("opentelemetry.trace")


@contextlib.contextmanager
def _recorded(api: Any, method: str, target: str) -> Iterator[None]:
    tracer = api.get_tracer("shoal")
    attributes = {"rpc.system.name": "grpc", "rpc.method": method, "shoal.target": target}
    with tracer.start_as_current_span(
        method,
        kind=api.SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except ShoalError as failure:
            code = failure.code.name
            span.set_attributes({"rpc.response.status_code": code, "error.type": code})
            span.set_status(api.StatusCode.ERROR)
            raise
        span.set_attribute("rpc.response.status_code", "OK")
