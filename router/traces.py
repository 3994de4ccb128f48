"""What a traced search leaves in the router: its stages, and the calls within them.

The stages are those that the answer's timings tell, put one after the other; calls are opened and
closed as they go, so that a search that fails shows how far it came.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from router.calls import Kind
from router.query import SearchQuery
from shoal.errors import ShoalError
from shoal.tracing.spans import Span, Trace, current_trace

if TYPE_CHECKING:  # it searches by what is traced here
    from router.search import Found

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


def tell_query(trace: Trace, query: SearchQuery, begun_s: float, queue_s: float) -> None:
    """What is known of a search before it begins: its size and its settings, never its words."""
    trace.timed_stage("queue", begun_s, begun_s + queue_s)
    trace.root.say(
        index=query.index.name,
        version=query.index.version,
        n_queries=query.n_queries,
        k=query.k,
        exact=query.exact,
        candidates=query.candidates,
        is_bulk=query.is_bulk,
    )


def tell_found(trace: Trace, query: SearchQuery, found: "Found", search_s: float) -> None:
    """How a search went that began at `search_s`: its stages, as its timings have them."""
    timings = found.timings
    encoded_s = search_s + timings.encode_s
    fanned_out_s = encoded_s + timings.search_s
    merged_s = fanned_out_s + timings.merge_s
    if query.texts:
        trace.timed_stage(ENCODE, search_s, encoded_s)
    trace.timed_stage(FAN_OUT, encoded_s, fanned_out_s)
    trace.timed_stage("merge", fanned_out_s, merged_s)
    if trace.has_stage(FETCH):  # mostly the passages come along with the hits
        trace.timed_stage(FETCH, merged_s, merged_s + timings.fetch_s)
    trace.root.say(coverage=found.coverage, n_probe=found.n_probe)
