"""A question's whole trace, from a program's own span to faiss, as a real collector gets it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from bench.otlp_receiver import Receiver, SeenSpan, tree
from shoal.client import Client

pytestmark = pytest.mark.end_to_end

SEARCH = "shoal.v1.SearchService/Search"
ENCODE = "shoal.v1.EncoderService/Encode"
SEARCH_SHARD = "shoal.internal.v1.ShardService/SearchShard"
N_TOGETHER = 12


@pytest.fixture(scope="module")
def provider(collector: Receiver) -> Iterator[TracerProvider]:
    """A program's own OpenTelemetry, as its authors would set it up."""
    provider = TracerProvider(resource=Resource.create({"service.name": "a-program"}))
    exporter = OTLPSpanExporter(endpoint=f"http://{collector.address}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        # it can be set once a process: other tests have theirs, or none, before and afterwards
        patch.setattr(otel, "_TRACER_PROVIDER", None)
        patch.setattr(otel, "_TRACER_PROVIDER_SET_ONCE", type(otel._TRACER_PROVIDER_SET_ONCE)())
        otel.set_tracer_provider(provider)
        yield provider
    provider.shutdown()


def whole(collector: Receiver, trace_id: str, is_whole: Callable[[list[SeenSpan]], bool]):
    """The trace's spans once it is whole: each process sends its part when it likes."""
    end_s = time.monotonic() + 30
    while not is_whole(spans := collector.trace(trace_id)):
        assert time.monotonic() < end_s, tree(spans) if spans else "no span came"
        time.sleep(0.05)
    return spans


def count(spans: list[SeenSpan], service: str, name: str) -> int:
    return sum((span.service, span.name) == (service, name) for span in spans)


def test_a_question_is_traced_from_the_program_to_faiss(cluster, collector, provider):
    """Client, router, encoder and both shards: one trace, each span within its parent."""
    with Client(cluster.target) as client:
        with provider.get_tracer("test").start_as_current_span("answer a user") as mine:
            answer = client.search("which animal is the biggest alive, measured?", k=3)
        trace_id = f"{mine.get_span_context().trace_id:032x}"

    # the last that each process sends of it
    last = {("shoal-shard", "passages"): 2, ("shoal-router", "merge"): 1,
            ("shoal-encoder", "wait"): 1, ("shoal-encoder", "forward pass"): 1,
            ("a-program", "answer a user"): 1}  # fmt: skip

    def is_whole(spans: list[SeenSpan]) -> bool:
        return all(count(spans, *span) == n for span, n in last.items())

    spans = whole(collector, trace_id, is_whole)
    by_id = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if not span.parent_id]
    assert root.name == "answer a user"
    for span in spans:
        if span is not root:
            parent = by_id[span.parent_id]
            assert span.start_ns >= parent.start_ns - 1e6, (span.name, parent.name)
        assert not span.is_error

    def path(span: SeenSpan) -> list[str]:
        return [*path(by_id[span.parent_id]), span.name] if span.parent_id else [span.name]

    router = ["answer a user", SEARCH, SEARCH]
    paths = [path(span) for span in spans]
    for stage in ("queue", "encode", "fan-out", "merge"):
        assert paths.count([*router, stage]) == 1
    within = [*router, "encode", "ask encoder", ENCODE, ENCODE]
    for stage in ("tokenize", "wait", "forward pass"):
        assert paths.count([*within, stage]) == 1
    within = [*router, "fan-out", "ask shard", SEARCH_SHARD, SEARCH_SHARD]
    for stage in ("wait", "scan", "passages"):
        assert paths.count([*within, stage]) == 2
    (served,) = [span for span in spans if (span.service, span.name) == ("shoal-router", SEARCH)]
    assert served.attributes["shoal.request_id"] == answer.request_id
    assert "biggest" not in repr(spans), "what was asked stays where it was asked"


def ask_together(client: Client, provider: TracerProvider, turn: int) -> list[str]:
    """Asks questions that no cache knows, all at the same moment; their traces' ids."""
    barrier = threading.Barrier(N_TOGETHER)
    trace_ids: list[str] = []

    def ask(number: int) -> None:
        with provider.get_tracer("test").start_as_current_span("rider") as mine:
            trace_ids.append(f"{mine.get_span_context().trace_id:032x}")
            barrier.wait()
            client.search(f"who wrote book number {turn}.{number}?", k=1, timeout_s=60)

    riders = [threading.Thread(target=ask, args=(number,)) for number in range(N_TOGETHER)]
    for rider in riders:
        rider.start()
    for rider in riders:
        rider.join()
    return trace_ids


def check_links(spans: list[SeenSpan], name: str, rider_name: str) -> bool:
    """Calls of that name and those who rode in them know each other; whether any rode together."""
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    calls = [span for span in spans if (span.name, span.kind) == (name, "client")]
    ridden = [by_id[link] for call in calls for link in call.links]
    asked = [span for span in spans if span.name == rider_name]
    assert sorted(span.span_id for span in ridden) == sorted(span.span_id for span in asked)
    for call in calls:
        assert len(call.links) == call.attributes["shoal.batch_sampled"]
        for rider in (by_id[link] for link in call.links):
            linked = (call.trace_id, call.span_id) in rider.links
            assert linked or rider.span_id == call.parent_id
    return len(calls) < len(asked)


def wait_for_passes(collector: Receiver, trace_ids: list[str], n_calls: int) -> None:
    """One pass is the whole of a call, or of several; the encoder sends its spans when it likes."""
    end_s = time.monotonic() + 30
    while True:
        seen = [span for trace_id in trace_ids for span in collector.trace(trace_id)]
        served = {
            (span.trace_id, span.span_id)
            for span in seen
            if (span.service, span.name, span.kind) == ("shoal-encoder", ENCODE, "server")
        }
        linked = {link for span in seen if span.name == "forward pass" for link in span.links}
        if len(served) == n_calls and linked == served:
            return
        assert time.monotonic() < end_s, f"{n_calls} calls, served: {served}, in passes: {linked}"
        time.sleep(0.05)


def test_questions_that_travel_together_are_linked(cluster, collector, provider):
    """Batches of the router and of the encoder: a span each, linked to all that rode in it.

    Twelve that a busy machine sends one by one need not ride together: then twelve others may.
    """
    end_s = time.monotonic() + 60
    with Client(cluster.target) as client:
        for turn in itertools.count():
            trace_ids = ask_together(client, provider, turn)
            spans = [
                span
                for trace_id in trace_ids
                for span in whole(collector, trace_id, lambda s: count(s, "shoal-router", "merge"))
            ]
            rode = [
                check_links(spans, ENCODE, "ask encoder"),
                check_links(spans, SEARCH_SHARD, "ask shard"),
            ]
            n_calls = sum((span.name, span.kind) == (ENCODE, "client") for span in spans)
            wait_for_passes(collector, trace_ids, n_calls)
            if all(rode):
                break
            assert time.monotonic() < end_s, f"twelve at once, {turn + 1} times: none rode together"
