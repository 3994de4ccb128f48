"""Sends spans to an OpenTelemetry collector: the only place that knows the SDK.

Rule: serving never waits for it. Spans go into a bounded queue that a thread of the SDK's empties;
what finds it full, or can't be sent, is dropped, counted (`shoal_trace_spans_dropped_total`) and
told in one line a minute at most, whatever the SDK itself would log.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shoal import __version__
from shoal.credentials import is_loopback_target, read_pem
from shoal.errors import ConfigError
from shoal.rpc import metrics
from shoal.tracing.collector import Collector, check_collector
from shoal.tracing.spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

logger = logging.getLogger(__name__)

MAX_QUEUED = 8_192
"""Spans that may wait: some 500 searches', 10 MB."""
_TELL_EVERY_S = 60.0
FLUSH_S = 1.0
"""What the end of a process waits for spans at most."""


def clock_offset_ns(wall_ns: Callable[[], int], steady_ns: Callable[[], int]) -> int:
    """What takes the steady clock to the wall's: of three looks the one that took the least.

    A process that loses its core between the two clocks would date its spans milliseconds before
    those of their callers.
    """
    looks = []
    for _ in range(3):
        before_ns, now_ns, after_ns = steady_ns(), wall_ns(), steady_ns()
        looks.append((after_ns - before_ns, now_ns - (before_ns + after_ns) // 2))
    return min(looks)[1]


class SpanSender:
    """The way to one collector; `send` may be called from any thread, and never waits."""

    def __init__(self, collector: Collector, role: str, *, max_queued: int = MAX_QUEUED) -> None:
        """`role` is what the process is called, `shoal-<role>`, beside those of the cluster.

        Raises:
            ConfigError: as `check_collector`; or what an OTEL_* variable says can't be.
        """
        check_collector(collector)
        # half a second of imports, for those who trace
        from shoal.tracing.sdk import Readable, batch_processor, counted, open_exporter  # noqa: PLC0415

        self._collector = collector
        self._max_queued = max_queued
        self._last_words = _LastWords()
        self._lock = threading.Lock()
        self._n_queued = 0
        self._n_untold = 0
        self._tell_s = 0.0
        self._is_unreached = False
        instance = f"{socket.gethostname()}:{os.getpid()}"
        self._readable = Readable(f"shoal-{role}", __version__, instance)
        ca = read_pem(collector.ca, "the collector's authority") if collector.ca else None
        try:
            self._exporter: SpanExporter = open_exporter(
                f"{'http' if collector.is_plaintext else 'https'}://{collector.address}",
                ca=ca,
                is_local=is_loopback_target(collector.address),
            )
            self._processor: BatchSpanProcessor = batch_processor(
                counted(self._exporter, self._taken, self._sent), max_queued=max_queued
            )
        except Exception as failure:  # the SDK has no class of its own for them
            self._last_words.remove()
            raise ConfigError(
                f"traces can't be sent as the environment's OTEL_* variables say: {failure}"
            ) from failure

    def send(self, spans: Sequence[Span]) -> None:
        """Queues spans that have ended; drops them where there is no room."""
        with self._lock:
            room = self._n_queued + len(spans) <= self._max_queued
            if room:
                self._n_queued += len(spans)
        if not room:
            self._drop(len(spans), "they come faster than they can be sent")
            return
        # one offset for all of them: what happened within a span must stay there
        offset_ns = clock_offset_ns(time.time_ns, time.monotonic_ns)
        try:
            readable = [self._readable.of(span, offset_ns) for span in spans]
        except Exception as fault:  # noqa: BLE001 -- a bug of ours here must cost no answer
            self._taken(len(spans))
            self._drop(len(spans), f"they can't be made, {fault!r}")
            return
        for span in readable:
            self._processor.on_end(span)

    def close(self) -> None:
        """Sends what waits, for `FLUSH_S` at most; not at all where nobody has answered lately."""
        ended = threading.Thread(target=self._end, daemon=True, name="last-spans")
        if self._is_unreached:
            self._exporter.shutdown()  # ends the retries under way
        ended.start()
        ended.join(FLUSH_S)
        if ended.is_alive():
            self._exporter.shutdown()
            logger.warning("%d spans for %s were not sent within %g s at the end",
                           self._n_queued, self._collector.address, FLUSH_S)  # fmt: skip

    def _end(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        self._last_words.remove()

    def _taken(self, n_spans: int) -> None:
        with self._lock:
            self._n_queued -= n_spans

    def _sent(self, n_spans: int, *, well: bool) -> None:
        self._is_unreached = not well
        if not well:
            self._drop(n_spans, self._last_words.text or "the collector doesn't take them")

    def _drop(self, n_spans: int, why: str) -> None:
        metrics.TRACE_SPANS_DROPPED.inc(n_spans)
        now_s = time.monotonic()
        with self._lock:
            self._n_untold += n_spans
            if now_s < self._tell_s:
                return
            n_dropped, self._n_untold, self._tell_s = self._n_untold, 0, now_s + _TELL_EVERY_S
        logger.warning("%d spans for %s were dropped: %s; serving goes on",
                       n_dropped, self._collector.address, why)  # fmt: skip


class _LastWords(logging.Handler):
    """Keeps what OpenTelemetry would log, over and over: the last line alone, for our own."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._logger = logging.getLogger("opentelemetry")
        self._propagated, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers the line."""
        self.text = " ".join(record.getMessage().split())[:300]

    def remove(self) -> None:
        """Lets it log as before."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
