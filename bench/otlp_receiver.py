"""A collector of traces: OTLP over gRPC, in memory, for tests, benchmarks and a first look.

`python -m bench.otlp_receiver --port 4317` prints each trace as a tree once nothing of it has come
for a second; with `--count` it only counts. The protocol is OpenTelemetry's own
(opentelemetry-proto); it keeps what it is sent, so it is no collector to leave running.
"""

import argparse
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

_SETTLED_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSpan:
    """A span as it came over the wire; ids are hexadecimal, `parent_id` "" for a root."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]

    @property
    def ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Serves on loopback from `with` on; `spans` is what has come so far."""

    def __init__(
        self, *, port: int = 0, keep: bool = True, tls: grpc.ServerCredentials | None = None
    ) -> None:
        """`port` 0 takes a free one; without `keep` spans are counted alone."""
        self.n_spans = 0
        self.spans: list[SeenSpan] = []
        self._keep = keep
        self._server = grpc.server(ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        wanted = f"127.0.0.1:{port}"
        if tls is None:
            port = self._server.add_insecure_port(wanted)
        else:
            port = self._server.add_secure_port(wanted, tls)
        self.address = f"127.0.0.1:{port}"

    def Export(
        self,
        request: pb.ExportTraceServiceRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 -- gRPC's signature
    ) -> pb.ExportTraceServiceResponse:
        """Takes a batch."""
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.n_spans += len(scope.spans)
                if self._keep:
                    self.spans += [_seen(str(service), span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_ended: object) -> None:
        self._server.stop(0.5).wait()

    def trace(self, trace_id: str) -> list[SeenSpan]:
        """What has come of one trace."""
        return [span for span in list(self.spans) if span.trace_id == trace_id]


def _seen(service: str, span: trace_pb2.Span) -> SeenSpan:
    return SeenSpan(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def tree(spans: Sequence[SeenSpan]) -> str:
    """A trace as text: a line a span, indented under its parent, in the order of their beginning.

    Each line has the milliseconds from the trace's begin, how long it took, and where it was.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[SeenSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    begin_ns = min(span.start_ns for span in spans)
    lines: list[str] = []

    def draw(span: SeenSpan, depth: int) -> None:
        told = [f"{key.removeprefix('shoal.')}={value}" for key, value in span.attributes.items()
                if key.startswith("shoal.") and key != "shoal.request_id"]  # fmt: skip
        links = [f"links={len(span.links)}"] if span.links else []
        name = "  " * depth + span.name
        after_ms = (span.start_ns - begin_ns) / 1e6
        lines.append(
            f"{after_ms:8.2f} {span.ms:8.2f}  {name:<58} {span.service:<14} "
            + " ".join([*told, *links])
        )
        for child in children.get(span.span_id, ()):
            draw(child, depth + 1)

    for root in children.get("", ()):
        draw(root, 0)
    header = f"{'at ms':>8} {'took ms':>8}  {'span':<58} process"
    return "\n".join([header, *(line.rstrip() for line in lines)])


def main() -> None:
    """Runs until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4317)
    parser.add_argument("--count", action="store_true", help="keep nothing, print the count")
    arguments = parser.parse_args()
    stopped = threading.Event()
    with Receiver(port=arguments.port, keep=not arguments.count) as receiver:
        print(receiver.address, flush=True)
        try:
            while not stopped.wait(_SETTLED_S):
                if arguments.count:
                    print(receiver.n_spans, flush=True)
                else:
                    _print_settled(receiver, time.time_ns())
        except KeyboardInterrupt:
            return


def _print_settled(receiver: Receiver, now_ns: int) -> None:
    by_trace: dict[str, list[SeenSpan]] = {}
    for span in list(receiver.spans):
        by_trace.setdefault(span.trace_id, []).append(span)
    for trace_id, spans in by_trace.items():
        # exporters send every five seconds, each when it likes
        if now_ns - max(span.end_ns for span in spans) > (5 + _SETTLED_S) * 1e9:
            print(f"\ntrace {trace_id}\n{tree(spans)}", flush=True)
            receiver.spans = [span for span in receiver.spans if span.trace_id != trace_id]


if __name__ == "__main__":
    main()
