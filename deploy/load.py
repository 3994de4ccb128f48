"""A process's load, by its Prometheus page: counters now, and rates between two looks.

Rule: what isn't on the page, or a page that doesn't answer, is None or 0, never an error: a load is
for showing and for scaling, and no process may depend on it. The page is plaintext; a launcher has
it on loopback.
"""

import asyncio
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from shoal.target import host_port

_TIMEOUT_S = 1.0
_MOST_BYTES = 256 * 1024
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_NAMES = (
    "shoal_queries_total",
    "shoal_refused_total",
    "shoal_in_flight",
    "shoal_queue_depth",
    "shoal_stage_duration_seconds_sum",
    "shoal_stage_duration_seconds_count",
    "process_cpu_seconds_total",
    "shoal_live_recall",
    "shoal_live_recall_low",
    "shoal_live_recall_high",
    "shoal_live_recall_window",
)
_PATH = "/metrics?" + "&".join(f"name[]={quote(name)}" for name in _NAMES)
_QUEUE_STAGE = 'stage="encoder_queue"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """One look at a page; `at_s` is the reader's clock. Queries are texts for an encoder.

    The recall is that of `n_recalls` live queries, where a router serves one index; `is_exact` says
    that all searches of it are exact.
    """

    at_s: float
    served: float = 0.0
    refused: float = 0.0
    in_flight: float = 0.0
    queued: float = 0.0
    wait_s: float = 0.0
    n_waits: float = 0.0
    cpu_s: float = 0.0
    recall: float = 0.0
    recall_low: float = 0.0
    recall_high: float = 0.0
    n_recalls: int = 0
    is_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLoad:
    """What a process did between two looks; `wait_s` is a mean, `busy` counts cores.

    `recall` is what a router measured of its last `n_recalls` live queries, with its 95 % interval;
    nothing where that is 0. `is_exact`: every search is exact, nothing is measured.
    """

    in_flight: int
    queued: int
    qps: float
    refused_per_s: float
    wait_s: float
    busy: float
    recall: float = 0.0
    recall_low: float = 0.0
    recall_high: float = 0.0
    n_recalls: int = 0
    is_exact: bool = False


def parse_page(text: str, at_s: float) -> Counters:
    """The counters of a page in Prometheus' text format; what is missing is 0."""
    sums, n_recalled = dict.fromkeys(_NAMES, 0.0), 0
    for name, labels, value in _SAMPLE.findall(text):
        if name in sums and (not name.startswith("shoal_stage") or _QUEUE_STAGE in labels):
            sums[name] += float(value)
            n_recalled += name == "shoal_live_recall"
    # of several indexes, no sum of recalls says anything
    is_told = n_recalled == 1 and sums["shoal_live_recall_window"] > 0
    return Counters(
        at_s=at_s,
        served=sums["shoal_queries_total"],
        refused=sums["shoal_refused_total"],
        in_flight=sums["shoal_in_flight"],
        queued=sums["shoal_queue_depth"],
        wait_s=sums["shoal_stage_duration_seconds_sum"],
        n_waits=sums["shoal_stage_duration_seconds_count"],
        cpu_s=sums["process_cpu_seconds_total"],
        recall=sums["shoal_live_recall"] if is_told else 0.0,
        recall_low=sums["shoal_live_recall_low"] if is_told else 0.0,
        recall_high=sums["shoal_live_recall_high"] if is_told else 0.0,
        n_recalls=int(sums["shoal_live_recall_window"]) if is_told else 0,
        # known without a measurement; not known yet is NaN
        is_exact=n_recalled == 1 and not is_told and sums["shoal_live_recall"] == 1.0,
    )


def load_between(before: Counters, now: Counters) -> ProcessLoad:
    """The load from one look to the next; counters that went back began anew in another process."""
    if now.served < before.served or now.cpu_s < before.cpu_s or now.at_s <= before.at_s:
        before = Counters(at_s=min(before.at_s, now.at_s - _TIMEOUT_S))
    seconds = now.at_s - before.at_s
    n_waits = now.n_waits - before.n_waits
    return ProcessLoad(
        in_flight=int(now.in_flight),
        queued=int(now.queued),
        qps=(now.served - before.served) / seconds,
        refused_per_s=(now.refused - before.refused) / seconds,
        wait_s=(now.wait_s - before.wait_s) / n_waits if n_waits > 0 else 0.0,
        busy=(now.cpu_s - before.cpu_s) / seconds,
        recall=now.recall,
        recall_low=now.recall_low,
        recall_high=now.recall_high,
        n_recalls=now.n_recalls,
        is_exact=now.is_exact,
    )


def page_of(address_file: Path, pid: int) -> str:
    """Where process `pid` says that its page is; "" where it has none, or hasn't said."""
    try:
        told = json.loads(address_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(told.get("metrics", "")) if told.get("pid") == pid else ""


def page_from_elsewhere(page: str, host: str) -> str:
    """The page as another machine reaches it, where it listens on all addresses of `host`. Pure."""
    listens, _, port = page.rpartition(":")
    if listens not in ("0.0.0.0", "[::]"):  # noqa: S104 -- compared, and not listened on
        return page
    return host_port(host, port)


async def read_counters(page: str, timeout_s: float = _TIMEOUT_S) -> Counters | None:
    """One look at the page at `page`, host:port; None where it doesn't answer in time."""
    if not page:
        return None
    host, _, port = page.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            text = await _fetch(host.strip("[]"), int(port))
        return parse_page(text, asyncio.get_running_loop().time())
    except (OSError, ValueError, TimeoutError):
        return None


async def _fetch(host: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        # 1.0: the answer ends with the connection, and in no chunks
        writer.write(f"GET {_PATH} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        await writer.drain()
        content = await _read_all(reader)
    finally:
        writer.close()
    head, _, body = content.decode("utf-8", "replace").partition("\r\n\r\n")
    if " 200 " not in head.partition("\r\n")[0]:
        raise ValueError("no page of metrics")
    return body


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while part := await reader.read(65536):
        parts += part
        if len(parts) > _MOST_BYTES:
            raise ValueError("too long a page")
    return bytes(parts)


class Looks:
    """The last look at each page: a load needs two, and whoever watches takes one a turn."""

    def __init__(self) -> None:
        self._last: dict[str, Counters] = {}

    async def loads(self, pages: Collection[str]) -> dict[str, ProcessLoad]:
        """Looks at these pages; the loads of those that were looked at before, by page."""
        named = sorted(set(pages) - {""})
        found = await asyncio.gather(*(read_counters(page) for page in named))
        now = {page: told for page, told in zip(named, found, strict=True) if told is not None}
        loads = {
            page: load_between(self._last[page], told)
            for page, told in now.items()
            if page in self._last
        }
        self._last = now
        return loads

    @property
    def first(self) -> bool:
        """Whether nothing was looked at yet."""
        return not self._last
