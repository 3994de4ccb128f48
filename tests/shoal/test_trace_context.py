"""W3C trace context and head sampling, beside OpenTelemetry's own."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shoal.tracing.context import (
    SpanContext,
    context_of,
    is_within,
    metadata_of,
    parse_parent,
    sampling_bound,
)
from shoal.tracing.tracer import Tracer

SEARCH = "shoal.v1.SearchService/Search"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(
    st.one_of(
        st.text(max_size=60),
        st.tuples(
            st.sampled_from(["00", "01", "ff", "0"]),
            st.sampled_from(["0" * 32, "0af7651916cd43dd8448eb211c80319c", "A" * 32, "1" * 31]),
            st.sampled_from(["0" * 16, "b7ad6b7169203331", "1" * 17]),
            st.sampled_from(["00", "01", "02", "03", "ff", "1", "0g"]),
        ).map("-".join),
    )
)
@example(PARENT)
@example(PARENT + "-more")
@example("01" + PARENT[2:] + "-more")
def test_a_parent_is_read_as_opentelemetry_reads_it(parent):
    """Whatever a caller sends: another reading would join other traces, or an error cost it."""
    told = TraceContextTextMapPropagator().extract({"traceparent": parent})
    theirs = otel.get_current_span(told).get_span_context()
    ours = parse_parent(parent)
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (ours.trace_id, ours.span_id) == (theirs.trace_id, theirs.span_id)
        assert ours.is_sampled == theirs.trace_flags.sampled


@given(
    st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.booleans(),
    st.sampled_from(["", "vendor=1,other=2"]),
)  # fmt: skip
def test_what_is_sent_is_what_is_read(trace_id, span_id, is_sampled, state):
    """The next process sees the span, the decision, and the vendors' state."""
    sent = SpanContext(trace_id, span_id, is_sampled, state)
    assert context_of(metadata_of(sent)) == sent


def test_two_parents_are_none():
    """W3C allows one; to choose among two would be a guess."""
    entry = ("traceparent", PARENT)
    assert context_of([entry]) is not None
    assert context_of([entry, ("traceparent", PARENT.replace("0af7", "1af7"))]) is None
    assert context_of([("traceparent", PARENT.encode())]) is None


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
@example(1, 0.0)
@example((1 << 64) - 1, 1.0)
def test_sampling_decides_as_opentelemetry_does(trace_id, share):
    """A trace that starts in a program of the user's is kept or left by both alike."""
    theirs = TraceIdRatioBased(share).should_sample(None, trace_id, "x").decision
    assert is_within(trace_id, sampling_bound(share)) == theirs.is_sampled()


@pytest.mark.parametrize(("share", "n_sampled"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_a_root_samples_its_share(share, n_sampled):
    """Of ids spread evenly, the share; a search that isn't sampled makes nothing."""
    emitted, traces = [], []
    for quarter in range(4):
        bits = [9, quarter << 62]  # the high half of the id, the low half, last first
        tracer = Tracer(emitted.append, share=share, draw=lambda _n, bits=bits: bits.pop())
        traces.append(tracer.begin(SEARCH, (), start_s=0.0, request_id="r"))
    assert sum(trace is not None for trace in traces) == n_sampled
    assert emitted == []


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(("flags", "is_traced"), [("00", False), ("01", True)])
def test_a_callers_decision_holds_whatever_the_share(share, flags, is_traced):
    """ParentBased: half a trace, or one nobody asked for, is of no use."""
    tracer = Tracer(lambda _spans: None, share=share)
    parent = PARENT[:-2] + flags
    trace = tracer.begin(SEARCH, [("traceparent", parent)], start_s=0.0, request_id="r")
    assert (trace is not None) == is_traced
    if trace is not None:
        assert (trace.trace_id, trace.root.parent_id) == parse_parent(parent)[:2]


def test_only_a_search_begins_a_trace():
    """What the cluster's own processes ask each other a second would be most of the traces."""
    tracer = Tracer(lambda _spans: None, share=1.0)
    for method in ("shoal.v1.SearchService/ListIndexes", "shoal.v1.EncoderService/Encode"):
        assert tracer.begin(method, (), start_s=0.0, request_id="r") is None
        parent = [("traceparent", PARENT)]
        assert tracer.begin(method, parent, start_s=0.0, request_id="r") is not None
