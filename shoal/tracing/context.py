"""Which trace a call belongs to, as W3C's `traceparent` and `tracestate` say it. Pure.

Source: https://www.w3.org/TR/trace-context/. What breaks its grammar is no context, never an error:
a caller's fault there must not cost it its answer.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

PARENT_KEY = "traceparent"
STATE_KEY = "tracestate"

Metadata = tuple[tuple[str, str], ...]

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE_CHARS = 512
_SAMPLED = 0x01
_LOW_BITS = (1 << 64) - 1


class SpanContext(NamedTuple):
    """One span of one trace: ids of 128 and 64 bits, never 0; `state` is vendors' `tracestate`."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""


def context_of(metadata: Iterable[tuple[str, str | bytes]]) -> SpanContext | None:
    """The caller's span, as a call's metadata name it; None where they don't."""
    parent, states = "", []
    for key, value in metadata:
        if key == PARENT_KEY and isinstance(value, str):
            if parent:
                return None  # two parents are none
            parent = value
        elif key == STATE_KEY and isinstance(value, str):
            states.append(value)
    return parse_parent(parent, ",".join(states)) if parent else None


def parse_parent(parent: str, state: str = "") -> SpanContext | None:
    """The span that a `traceparent` names; None for what is none."""
    match = _PARENT.fullmatch(parent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_sampled=bool(int(flags, 16) & _SAMPLED),
        state=state if len(state) <= _MAX_STATE_CHARS else "",
    )


def metadata_of(context: SpanContext) -> Metadata:
    """What a call sends so that it belongs to this span."""
    flags = _SAMPLED if context.is_sampled else 0
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
    if context.state:
        return ((PARENT_KEY, parent), (STATE_KEY, context.state))
    return ((PARENT_KEY, parent),)


def sampling_bound(share: float) -> int:
    """The bound below which a trace id's low 64 bits are sampled, for a share of 0 to 1.

    The rule of OpenTelemetry's TraceIdRatioBased, so that whoever else decides by the id agrees.
    """
    return round(share * (_LOW_BITS + 1))


def is_within(trace_id: int, bound: int) -> bool:
    """Whether a trace of this id is sampled."""
    return trace_id & _LOW_BITS < bound
