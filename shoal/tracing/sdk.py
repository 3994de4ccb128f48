"""Our spans as OpenTelemetry's, its queue and its exporter. Imported only where traces are sent.

Spans are made as the SDK's `ReadableSpan`, the value that its processors take, and not begun and
ended by its Tracer: they are over when they get here and have their ids already, which other
processes were told. It takes a third of the time, too (docs/decisions.md).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace.status import Status, StatusCode

from shoal.tracing.context import SpanContext
from shoal.tracing.spans import Kind, Span

_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class Readable:
    """Makes the SDK's spans, of one process."""

    def __init__(self, service: str, version: str, instance: str) -> None:
        # what OTEL_RESOURCE_ATTRIBUTES names is added
        self._resource = Resource.create(
            {"service.name": service, "service.version": version, "service.instance.id": instance}
        )
        self._scope = InstrumentationScope("shoal", version)

    def of(self, span: Span, offset_ns: int) -> ReadableSpan:
        """A span that has ended; `offset_ns` takes the monotonic clock to that of the world."""
        assert span.end_s is not None
        trace = span.trace
        parent = None
        if span.parent_id:
            parent = OtelContext(trace.trace_id, span.parent_id, span.parent_is_remote, _SAMPLED)
        return ReadableSpan(
            name=span.name,
            context=_context(span.context),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_context(link)) for link in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else _UNSET,
            start_time=int(span.start_s * 1e9) + offset_ns,
            end_time=int(span.end_s * 1e9) + offset_ns,
            instrumentation_scope=self._scope,
        )


def _context(context: SpanContext) -> OtelContext:
    state = TraceState.from_header([context.state]) if context.state else None
    return OtelContext(
        context.trace_id, context.span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=state
    )


def open_exporter(endpoint: str, *, ca: bytes | None, is_local: bool) -> SpanExporter:
    """The OTLP exporter to http(s)://HOST:PORT; the rest is as OTEL_EXPORTER_OTLP_* say."""
    return OTLPSpanExporter(
        endpoint=endpoint,
        insecure=endpoint.startswith("http:"),
        credentials=grpc.ssl_channel_credentials(ca) if ca else None,
        # gRPC heeds http_proxy for this machine's own addresses too
        channel_options=(("grpc.enable_http_proxy", 0),) if is_local else None,  # type: ignore[arg-type]
    )


def batch_processor(exporter: SpanExporter, *, max_queued: int) -> BatchSpanProcessor:
    """The SDK's queue and thread; how often and how many at once is as OTEL_BSP_* say."""
    return BatchSpanProcessor(exporter, max_queue_size=max_queued)


class Sent(Protocol):
    """Hears how an export went."""

    def __call__(self, n_spans: int, *, well: bool) -> None:
        """`n_spans` were sent, or will never be."""
        ...


def counted(exporter: SpanExporter, taken: Callable[[int], None], sent: Sent) -> SpanExporter:
    """The exporter, telling what it takes from the queue and how that went."""
    return _Counted(exporter, taken, sent)


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter, taken: Callable[[int], None], sent: Sent) -> None:
        self._exporter = exporter
        self._taken = taken
        self._sent = sent

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._taken(len(spans))
        try:
            result = self._exporter.export(spans)
        except Exception:  # a fault of the SDK's costs these spans and no more
            self._sent(len(spans), well=False)
            raise
        self._sent(len(spans), well=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
