"""The calls of a traced search in the router, and the stages that they are made in.

Calls are opened and closed as they go, so that a search that fails shows how far it came. Knows
nothing of answers.
"""

import asyncio
import time
from typing import Any

from router.calls import Kind
from shoal.errors import ShoalError
from shoal.tracing.spans import Span, current_trace

ENCODE, FAN_OUT, FETCH = "encode", "fan-out", "fetch"
"""The stages with calls in them."""


def stage_of(name: str) -> Span | None:
    """The current search's stage that calls are made in; None where it isn't traced."""
    trace = current_trace()
    return None if trace is None else trace.stage(name, time.monotonic())


def open_call(stage: Span, address: str, shard: int, kind: Kind, since_s: float) -> Span:
    """One replica's being asked, from joining its queue to the answer."""
    call = stage.open("ask encoder" if stage.name == ENCODE else "ask shard", since_s)
    host, _, port = address.rpartition(":")
    call.attributes["server.address"] = host.strip("[]")
    if port.isdigit():
        call.attributes["server.port"] = int(port)
    call.say(attempt=kind.value)
    if stage.name != ENCODE:
        call.say(shard=shard)
    return call


def close_call(call: Span, answer: "asyncio.Future[Any]") -> None:
    """The answer is there, or won't come; one that isn't wanted any more is no failure."""
    if answer.cancelled():
        call.end(time.monotonic(), code="CANCELLED", is_error=False)
        call.say(dropped=True)
        return
    failure = answer.exception()
    code = "OK" if failure is None else "INTERNAL"
    if isinstance(failure, ShoalError):
        code = failure.code.name
    call.end(time.monotonic(), code=code, is_error=failure is not None)
