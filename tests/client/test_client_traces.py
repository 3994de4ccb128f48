"""The client in a program that traces: its span, and what it sends on; with a real SDK's spans."""

import subprocess
import sys

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shoal.errors import NotFoundError, ShoalError
from shoal.tracing.context import context_of
from shoal.v1 import search_pb2 as pb

GOOD = pb.SearchResponse(results=[pb.QueryResult()])
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


@pytest.fixture
def exported(monkeypatch):
    """A program's own OpenTelemetry, for this test alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def inside(*, sampled: bool) -> otel.Span:
    flags = otel.TraceFlags(otel.TraceFlags.SAMPLED if sampled else 0)
    return otel.NonRecordingSpan(
        otel.SpanContext(TRACE_ID, SPAN_ID, is_remote=True, trace_flags=flags)
    )


async def test_a_search_is_a_span_of_the_programs_and_takes_it_along(router, ask, exported):
    """One span for the call with its retries; the router's parent is that, not the program's."""
    router.steps = [GOOD]
    with otel.get_tracer("test").start_as_current_span("mine"):
        await ask(router.target, "search", "q")
    call, mine = exported.get_finished_spans()
    assert (call.name, call.kind) == ("shoal.v1.SearchService/Search", otel.SpanKind.CLIENT)
    assert call.parent.span_id == mine.context.span_id
    assert call.attributes["rpc.response.status_code"] == "OK"
    sent = context_of(router.metadata[0].items())
    assert (sent.trace_id, sent.span_id) == (call.context.trace_id, call.context.span_id)
    assert sent.is_sampled


async def test_a_search_that_fails_ends_its_span_as_an_error(router, ask, exported):
    """With the code, and without the message: it may quote what was asked."""
    router.steps = [NotFoundError("no index 'secret' here")]
    with otel.get_tracer("test").start_as_current_span("mine"), pytest.raises(ShoalError):
        await ask(router.target, "search", "q")
    call, _mine = exported.get_finished_spans()
    assert call.attributes["error.type"] == "NOT_FOUND"
    assert call.status.status_code is otel.StatusCode.ERROR
    assert "secret" not in call.to_json()


@pytest.mark.parametrize("is_sampled", [True, False])
async def test_a_decision_taken_elsewhere_is_carried(router, ask, exported, is_sampled):
    """A span that isn't recorded here has no child here; the router learns what was decided."""
    router.steps = [GOOD]
    with otel.use_span(inside(sampled=is_sampled)):
        await ask(router.target, "search", "q")
    sent = context_of(router.metadata[0].items())
    assert (sent.trace_id, sent.span_id, sent.is_sampled) == (TRACE_ID, SPAN_ID, is_sampled)
    assert exported.get_finished_spans() == ()


async def test_without_a_span_nothing_is_sent(router, ask, exported):
    """Then the router decides whether to begin a trace."""
    router.steps = [GOOD]
    await ask(router.target, "search", "q")
    assert "traceparent" not in router.metadata[0]
    assert exported.get_finished_spans() == ()


def test_the_client_never_imports_opentelemetry():
    """A bare install has none, and a program without it must not pay for it."""
    program = (
        "import sys; from shoal.client import Client\n"
        "from shoal.tracing.caller import call_span, propagated\n"
        "with call_span('s.S/M', 'x:1'): assert propagated() == ()\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
