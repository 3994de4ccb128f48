"""The spans that one sampled request leaves in one process, until they are sent as one batch.

Times are seconds on `time.monotonic()`, taken by the code that measures its stages anyway; ids are
drawn when a span is opened, since children and other processes name it before it ends. What is
still open when the request ends is closed with it. Knows no OpenTelemetry.

No span carries what was asked or found: attributes are numbers, names and addresses.
"""

import contextvars
import enum
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shoal.tracing.context import SpanContext

Value: TypeAlias = str | int | float | bool
Emit: TypeAlias = "Callable[[Sequence[Span]], None]"
"""Takes spans that have ended; it must neither wait nor raise."""

MAX_LINKS = 128
"""Links a span, at most: OpenTelemetry's own limit."""


class Kind(enum.Enum):
    """OpenTelemetry's kinds, as far as they occur here."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(slots=True, eq=False, kw_only=True)
class Span:
    """Something that took time. `parent_id` 0: the root; `error` empty: it went well."""

    trace: "Trace"
    name: str
    start_s: float
    parent_id: int
    parent_is_remote: bool = False
    kind: Kind = Kind.INTERNAL
    end_s: float | None = None
    error: str = ""
    span_id: int = field(default_factory=lambda: random.getrandbits(64) or 1)
    attributes: dict[str, Value] = field(default_factory=dict)
    links: list[SpanContext] = field(default_factory=list)

    @property
    def context(self) -> SpanContext:
        """Its ids, for a link or for a call."""
        trace = self.trace
        return SpanContext(trace.trace_id, self.span_id, is_sampled=True, state=trace.state)

    def link(self, other: "Span") -> None:
        """Refers to a span of any trace; beyond `MAX_LINKS` it doesn't."""
        if len(self.links) < MAX_LINKS:
            self.links.append(other.context)

    def open(self, name: str, start_s: float) -> "Span":
        """Begins a child; it ends with the request at the latest."""
        return self.trace.keep(
            Span(trace=self.trace, name=name, start_s=start_s, parent_id=self.span_id)
        )

    def add(self, name: str, start_s: float, end_s: float, **attributes: Value) -> "Span":
        """A child that is over already; `shard=3` becomes the attribute `shoal.shard`."""
        child = self.open(name, start_s)
        child.end_s = max(start_s, end_s)
        child.say(**attributes)
        return child

    def say(self, **attributes: Value) -> None:
        """Sets attributes of Shoal's own: `shard=3` is `shoal.shard`."""
        for name, value in attributes.items():
            self.attributes[f"shoal.{name}"] = value

    def end(self, end_s: float, *, code: str, is_error: bool) -> None:
        """Ends a call's span with the name of its gRPC status code."""
        self.end_s = max(self.start_s, end_s)
        self.attributes["rpc.response.status_code"] = code
        if is_error:
            self.error = self.attributes["error.type"] = code


class Trace:
    """One sampled request in this process: `root` is the span of the call that asked for it."""

    def __init__(
        self, name: str, start_s: float, *, trace_id: int, parent: SpanContext | None, emit: Emit
    ) -> None:
        """`parent` is the caller's span; None where the trace begins here."""
        self.trace_id = trace_id
        self.state = parent.state if parent else ""
        self.emit = emit
        self._spans: list[Span] = []
        self._stages: dict[str, Span] = {}
        self.root = self.keep(
            Span(
                trace=self,
                name=name,
                start_s=start_s,
                kind=Kind.SERVER,
                parent_id=parent.span_id if parent else 0,
                parent_is_remote=parent is not None,
            )
        )

    def keep(self, span: Span) -> Span:
        """The span, which is sent with the others."""
        self._spans.append(span)
        return span

    def stage(self, name: str, start_s: float) -> Span:
        """The stage of this name, opened where it isn't yet; calls within it are its children."""
        known = self._stages.get(name)
        if known is None:
            known = self._stages[name] = self.root.open(name, start_s)
        return known

    def has_stage(self, name: str) -> bool:
        """Whether the stage was opened."""
        return name in self._stages

    def timed_stage(self, name: str, start_s: float, end_s: float) -> Span:
        """The stage of this name with the times that were measured."""
        stage = self.stage(name, start_s)
        stage.start_s, stage.end_s = start_s, max(start_s, end_s)
        return stage

    def finish(self, *, code: str, is_error: bool) -> None:
        """Ends the request and sends its spans."""
        now_s = time.monotonic()
        self.root.end(now_s, code=code, is_error=is_error)
        for span in self._spans:
            if span.end_s is None:  # a stage that failed, a call whose answer nobody waits for
                span.end_s = max(span.start_s, now_s)
                span.say(unfinished=True)
        self.emit(self._spans)


_current: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("shoal_trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the request that this code serves; None where it is not sampled."""
    return _current.get()


def adopt_trace(trace: Trace) -> contextvars.Token[Trace | None]:
    """Makes it the current request's, until `leave_trace` is given the token."""
    return _current.set(trace)


def leave_trace(token: contextvars.Token[Trace | None]) -> None:
    """Whatever comes next in the same task is another request's."""
    _current.reset(token)
