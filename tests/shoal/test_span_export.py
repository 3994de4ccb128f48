"""Spans on their way to a collector: a real receiver, one that is gone, one that never answers."""

import logging
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
import trustme

from bench.otlp_receiver import Receiver
from shoal.errors import ConfigError, UnavailableError
from shoal.rpc import metrics
from shoal.tracing import export
from shoal.tracing.collector import Collector, check_collector
from shoal.tracing.context import SpanContext
from shoal.tracing.export import SpanSender
from shoal.tracing.shared import shared_call, shared_span
from shoal.tracing.spans import Trace


def dropped() -> float:
    return metrics.TRACE_SPANS_DROPPED._value.get()


def request(emit, *, trace_id=7, n_stages=3, parent=None) -> Trace:
    """A finished search of a few stages."""
    start_s = time.monotonic()
    trace = Trace("Search", start_s, trace_id=trace_id, parent=parent, emit=emit)
    for number in range(n_stages):
        trace.root.add(f"stage {number}", start_s + number, start_s + number + 0.5, shard=number)
    trace.finish(code="OK", is_error=False)
    return trace


def until(is_so, within_s=60.0):
    end_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end_s, "it never became so"
        time.sleep(0.01)


@pytest.fixture
def long_flush(monkeypatch):
    """What is sent arrives before the end, however slow this machine is."""
    monkeypatch.setattr(export, "FLUSH_S", 60.0)


@pytest.mark.usefixtures("long_flush")
def test_a_collector_gets_the_spans_as_they_were():
    """Ids, times, parents, links, attributes and the service's name cross OpenTelemetry's wire."""
    parent = SpanContext(7, 99, is_sampled=True, state="vendor=1")
    with Receiver() as receiver:
        sender = SpanSender(Collector(address=receiver.address), "router")
        trace = request(sender.send, parent=parent)
        other = request(sender.send, trace_id=8)
        shared = shared_span("together", [trace.root, other.root], time.monotonic())
        shared.end_s = shared.start_s
        sender.send([shared])
        sender.close()
    assert len(receiver.spans) == 9
    spans = {span.name: span for span in receiver.trace(f"{7:032x}")}
    root, stages = spans["Search"], [spans[f"stage {number}"] for number in range(3)]
    assert (root.service, root.name, root.kind) == ("shoal-router", "Search", "server")
    assert root.parent_id == f"{99:016x}"
    assert root.span_id == f"{trace.root.span_id:016x}"
    assert abs(root.start_ns - time.time_ns()) < 60e9, "the wall clock's times"
    assert all(stage.parent_id == root.span_id for stage in stages)
    assert [stage.attributes["shoal.shard"] for stage in stages] == [0, 1, 2]
    (together,) = [span for span in receiver.spans if span.name == "together"]
    assert set(together.links) == {
        (f"{t.trace_id:032x}", f"{t.root.span_id:016x}") for t in (trace, other)
    }


def test_a_collector_that_is_gone_costs_spans_and_one_line(caplog):
    """Serving goes on: nothing waits, all is counted, and no log storm hides other lines."""
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        before = dropped()
        with caplog.at_level(logging.INFO):
            sender = SpanSender(Collector(address=address), "shard", max_queued=600)
            n_sent = 0
            for _ in range(500):
                request(sender.send)
                n_sent += 4
            sender.close()
            until(lambda: dropped() - before == n_sent)
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([line for line in told if "serving goes on" in line]) == 1, told
    assert len(told) <= 2, "and one at the end, where not all were sent"
    assert all(address in line for line in told)


def test_nobody_waits_for_a_collector_that_never_answers(monkeypatch):
    """Neither who sends spans nor the end of a process: both are over while the export hangs."""
    monkeypatch.setattr(export, "FLUSH_S", 0.05)
    answers, asked, over = threading.Event(), threading.Event(), threading.Event()
    with Receiver() as receiver:
        sender = SpanSender(Collector(address=receiver.address), "shard", max_queued=600)
        to_receiver = sender._exporter.export

        def hang(spans):
            asked.set()
            answers.wait(60)
            over.set()
            return to_receiver(spans)

        monkeypatch.setattr(sender._exporter, "export", hang)
        for _ in range(500):
            request(sender.send)
        assert asked.wait(60)
        sender.close()
        assert not over.is_set()
        answers.set()
        until(lambda: not any(thread.name == "last-spans" for thread in threading.enumerate()))


@pytest.mark.usefixtures("long_flush")
def test_a_full_queue_drops_what_is_new():
    """A bound on memory, whatever the load: what has room goes, the rest is counted."""
    with Receiver() as receiver:
        sender = SpanSender(Collector(address=receiver.address), "shard", max_queued=600)
        before = dropped()
        request(sender.send, n_stages=700)
        assert dropped() - before == 701
        request(sender.send)
        sender.close()
    assert receiver.n_spans == 4


def test_a_collector_of_a_known_authority_gets_them_in_tls(tmp_path, monkeypatch):
    """With --traces-ca nothing goes in plaintext, and to nobody else."""
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    tls = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    with Receiver(tls=tls) as receiver:
        for ca, n_spans in ((stranger, 0), (authority, 4)):
            ca.cert_pem.write_to_path(tmp_path / "ca.pem")
            collector = Collector(address=receiver.address, ca=tmp_path / "ca.pem")
            sender = SpanSender(collector, "shard")
            request(sender.send)
            if n_spans:
                monkeypatch.setattr(export, "FLUSH_S", 60.0)  # as `long_flush`
            sender.close()
            assert receiver.n_spans == n_spans


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9999"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "paper")],
)
def test_what_opentelemetry_refuses_is_one_line(monkeypatch, name, value):
    """Its variables are the operator's to set, and its tracebacks not theirs to read."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="OTEL_"):
        SpanSender(Collector(address="127.0.0.1:4317"), "shard")


def test_without_opentelemetry_one_line_says_what_to_install():
    """The flag is refused at the start, not at the first search."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shoal.tracing.collector import Collector, check_collector\n"
        "from shoal.errors import ConfigError\n"
        "try: check_collector(Collector(address='127.0.0.1:4317'))\n"
        "except ConfigError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert "pip install 'shoal[tracing]'" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("address", ["", "4317", "http://127.0.0.1:4317", "host:0"])
def test_what_is_no_address_is_refused(address):
    """OpenTelemetry would take it, and fail at each export."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        check_collector(Collector(address=address))


@pytest.mark.parametrize(
    ("address", "environment", "is_plaintext"),
    [
        ("127.0.0.1:4317", {}, True),
        ("localhost:4317", {}, True),
        ("collector:4317", {}, False),
        ("collector:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, True),
        ("127.0.0.1:4317", {"OTEL_EXPORTER_OTLP_TRACES_INSECURE": "false"}, False),
    ],
)
def test_only_this_machine_is_told_in_plaintext(monkeypatch, address, environment, is_plaintext):
    """Traces name addresses: over a network they go in TLS, unless one says otherwise."""
    for name in ("OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Collector(address=address).is_plaintext == is_plaintext


def test_a_shared_call_carries_its_riders_trace_and_how_it_ended():
    """The next process joins the first rider's trace; nobody sampled means nothing sent or made."""
    emitted = []
    with shared_call("s.S/M", "127.0.0.1:1", [], 3) as metadata:
        assert metadata == ()
    trace = Trace("Search", 0.0, trace_id=7, parent=None, emit=emitted.extend)
    ask = trace.root.open("ask shard", 0.0)
    call = shared_call("s.S/M", "[::1]:80", [ask], 3)
    metadata = call.__enter__()
    call.__exit__(UnavailableError, UnavailableError("gone"), None)
    (call,) = emitted
    assert (call.error, call.parent_id) == ("UNKNOWN", ask.span_id)
    assert call.attributes["server.address"] == "::1"
    assert metadata[0][1] == f"00-{7:032x}-{call.span_id:016x}-01"
    assert grpc.StatusCode[call.error] is grpc.StatusCode.UNKNOWN
