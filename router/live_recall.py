"""Live recall: some of the answered queries are searched exactly in the background, and compared.

Rules:
1. It gives way to everything. Nothing is begun while any query waits in this router, or was refused
   within 5 s; a shard that refuses it, or is too slow, ends the measurement, and the pause before
   the next one doubles: shards that are always full, or read from disk, are soon left alone.
2. It keeps to its share of CPU time, by what shards say that their searches took. The share is one
   of a core for each shard of the index, for a shard searches on one thread.
3. A measurement that fails is counted and forgotten. It never becomes a recall.
4. Where every search is exact nothing is measured: its recall is 1, of no queries.

One task for each index, one search at a time. Knows nothing of the wire.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from functools import partial
from typing import Literal

from router.admission import Admission
from router.answered import Answered, is_measurable
from router.cpu_share import CpuShare
from router.exact_search import Exact, recall_of, search_exactly
from router.query import SearchQuery
from router.recall import EXACT, Estimate
from router.recall_window import RecallWindow
from router.registry import Registry
from router.reservoir import Reservoir
from router.search import Found
from shoal.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
)
from shoal.rpc import metrics
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S

logger = logging.getLogger(__name__)

Reason = Literal["busy", "overloaded", "late", "moved", "failed"]
"""Why a measurement that was due was not made: the label of `shoal_live_recall_shed_total`."""

QUIET_S = 5.0
"""How long nothing is begun after a refusal."""
PAUSE_S = 1.0
"""How long nothing is begun after a measurement was shed, at least."""
LONGEST_PAUSE_S = 600.0
"""How long nothing is begun after shards failed it many times in a row."""
_SHARDS_SAID: frozenset[Reason] = frozenset({"overloaded", "late", "failed"})
_LOOK_S = 5.0
"""How often a task without work looks whether its index is still served."""


class LiveRecall:
    """Takes note of answers, and measures some; `registry` owns the tasks."""

    def __init__(
        self, registry: Registry, admission: Admission, rng: random.Random, *, budget: float
    ) -> None:
        """`budget` is the share of CPU time, above 0."""
        self._registry = registry
        self._admission = admission
        self._rng = rng
        self._budget = budget
        self._watches: dict[str, _Watch] = {}

    def offer(self, query: SearchQuery, found: Found) -> None:
        """An answer was given: one of its queries may be searched again later."""
        if query.index.is_exact:
            self._watch(query.index.name)
        elif is_measurable(query, found):
            self._watch(query.index.name).offer(query, found)

    def _watch(self, name: str) -> "_Watch":
        watch = self._watches.get(name)
        if watch is None:
            watch = self._watches[name] = _Watch(
                name, self._registry, self._admission, self._rng, self._budget
            )
            # in no request's context, or its lines in the log would be that first request's
            contextvars.Context().run(self._registry.start, self._follow(watch))
        return watch

    async def _follow(self, watch: "_Watch") -> None:
        try:
            await watch.run()
            del self._watches[watch.name]
        except Exception:
            logger.exception("the recall of %s is measured no longer", watch.name)
        finally:
            watch.close()


class _Watch:
    """One index's measurements."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        admission: Admission,
        rng: random.Random,
        budget: float,
    ) -> None:
        self.name = name
        self._registry = registry
        self._admission = admission
        self._rng = rng
        self._budget = budget
        self._reservoir: Reservoir[Answered] = Reservoir(rng)
        self._version = 0
        self._n_failed = 0
        self._offered = asyncio.Event()
        self._share = CpuShare(budget)
        self._window = RecallWindow(version=0)
        self._sampled = metrics.LIVE_RECALL_SAMPLED.labels(name)
        self._cpu = metrics.LIVE_RECALL_CPU.labels(name)
        for gauge, field in (
            (metrics.LIVE_RECALL, "recall"),
            (metrics.LIVE_RECALL_LOW, "low"),
            (metrics.LIVE_RECALL_HIGH, "high"),
        ):
            gauge.labels(name).set_function(partial(self._told, field, math.nan))
        metrics.LIVE_RECALL_WINDOW.labels(name).set_function(partial(self._told, "n", 0.0))

    def offer(self, query: SearchQuery, found: Found) -> None:
        """One of a measurable answer's queries may be the next."""
        if query.index.version != self._version:
            self._version = query.index.version
            self._reservoir.take()
        self._reservoir.offer(query.n_queries, lambda number: Answered.of(query, found, number))
        self._offered.set()

    async def run(self) -> None:
        """Returns when the index is served no longer."""
        while self.name in self._registry.served.indexes:
            if not self._offered.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._offered.wait()
                continue
            now_s = time.monotonic()
            if wait_s := self._share.wait_s(now_s):
                await asyncio.sleep(min(wait_s, _LOOK_S))
            elif self._is_busy(now_s):
                self._shed("busy")
            elif answered := self._take():
                await self._measure(answered)

    def close(self) -> None:
        """Its gauges go."""
        for gauge in (
            metrics.LIVE_RECALL,
            metrics.LIVE_RECALL_LOW,
            metrics.LIVE_RECALL_HIGH,
            metrics.LIVE_RECALL_WINDOW,
        ):
            gauge.remove(self.name)

    def _is_busy(self, now_s: float) -> bool:
        return self._registry.served.n_waiting > 0 or now_s - self._admission.refused_at_s < QUIET_S

    def _take(self) -> Answered | None:
        """The next query; None where there is none of the version that is served."""
        self._offered.clear()
        answered = self._reservoir.take()
        if answered is not None and not self._is_served(answered.version.version):
            self._shed("moved")
            return None
        return answered

    async def _measure(self, answered: Answered) -> None:
        begun_s, version = time.monotonic(), answered.version.version
        shards = self._registry.served.indexes[self.name].best_shards
        self._share = self._share._replace(rate=self._budget * len(shards))
        with self._registry.users.hold(self.name, version):
            exact = await search_exactly(shards, answered, DEFAULT_TIMEOUT_S, self._rng)
        self._share = self._share.after(begun_s, exact.cpu_s)
        self._cpu.inc(exact.cpu_s)
        if reason := self._why_not(exact, version):
            self._shed(reason)
            return
        self._n_failed = 0
        recall = recall_of(answered, exact)
        if recall is not None:
            self._window = self._window.after(time.monotonic(), recall, version=version)
            self._sampled.inc()

    def _why_not(self, exact: Exact, version: int) -> Reason | None:
        if not self._is_served(version):
            return "moved"
        for failure in exact.failures:
            logger.info("the recall of %s was not measured: %s", self.name, failure)
        return reason_of(exact.failures[0]) if exact.failures else None

    def _shed(self, reason: Reason) -> None:
        metrics.LIVE_RECALL_SHED.labels(reason).inc()
        pause = pause_s(reason, n_failed=self._n_failed)
        self._share = self._share.not_before(time.monotonic() + pause)
        if reason in _SHARDS_SAID:
            self._n_failed += 1

    def _is_served(self, version: int) -> bool:
        index = self._registry.served.indexes.get(self.name)
        return index is not None and index.version == version

    def _told(self, field: str, nothing: float) -> float:
        """For the page of metrics, on its own thread: reads values that are replaced."""
        known = self._estimate()
        return float(getattr(known, field)) if known is not None else nothing

    def _estimate(self) -> Estimate | None:
        index, window = self._registry.served.indexes.get(self.name), self._window
        if index is None:
            return None
        if (described := index.described) is not None and described.is_exact:
            return EXACT
        return window.estimate(time.monotonic()) if window.version == index.version else None


def pause_s(reason: Reason, *, n_failed: int) -> float:
    """How long nothing is begun after a measurement was shed, `n_failed` failed before it. Pure."""
    if reason not in _SHARDS_SAID:
        return PAUSE_S
    return min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(n_failed, 30))


def reason_of(failure: BaseException) -> Reason:
    """What a shard's failure is counted as. Pure."""
    match failure:
        case OverloadedError():
            return "overloaded"
        case DeadlineExceededError():
            return "late"
        case FailedPreconditionError(reason="WRONG_VERSION"):
            return "moved"
        case _:
            return "failed"
