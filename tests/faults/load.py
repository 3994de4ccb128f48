"""An open loop of queries around a fault: 3 s before it, the fault, 5 s after.

Rules:
1. Latency counts from the moment a call was meant to be sent (`shoal.bench.drive`).
2. A run counts only where the seconds before the fault were sound: at least 95 % of the offered
   calls answered, none failed. Otherwise it is begun once more, before any fault was injected.
3. Every OK answer is shown to the oracle; no answer may come later than its deadline + 50 ms.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from faults.mini import Router
from faults.oracle import Oracle

from shoal import vectors
from shoal.bench.drive import open_loop
from shoal.bench.schedule import Stage, due_times
from shoal.bench.target import OK, Reply
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb

K = 10
METHOD = "/shoal.v1.SearchService/Search"
BEFORE_S = 3.0
AFTER_S = 5.0
_WARM_UP_S = 1.0
_LATE_S = 0.050
_LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One call: times on `time.perf_counter()`, its code, and the answer where there was one."""

    number: int
    due_s: float
    sent_s: float
    done_s: float
    code: str
    response: pb.SearchResponse | None = None
    reason: str = ""

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


@dataclass(slots=True, kw_only=True)
class Run:
    """What a load saw; `fault_s` to `healed_s` is the time of the fault."""

    oracle: Oracle
    timeout_s: float
    seen: list[Seen] = field(default_factory=list)
    begun_s: float = 0.0
    fault_s: float = 0.0
    healed_s: float = 0.0

    @property
    def before(self) -> list[Seen]:
        """Calls due after the warm-up and before the fault."""
        return self.due(self.begun_s + _WARM_UP_S, self.fault_s)

    @property
    def during(self) -> list[Seen]:
        """Calls due, or under way, from the fault on."""
        return [seen for seen in self.seen if seen.done_s >= self.fault_s]

    @property
    def after(self) -> list[Seen]:
        """Calls due after the healing."""
        return self.due(self.healed_s, float("inf"))

    def due(self, from_s: float, to_s: float) -> list[Seen]:
        return [seen for seen in self.seen if from_s <= seen.due_s < to_s]

    @property
    def base_s(self) -> float:
        """p99 before the fault."""
        return quantile_s(self.before, 0.99)

    @property
    def overtime_s(self) -> float:
        """I3: how long after its deadline the latest answer came, counted from the sending."""
        return max(0.0, max(s.done_s - s.sent_s for s in self.seen) - self.timeout_s)

    def n_late(self) -> int:
        """I3: answers later than the deadline + 50 ms, counted from the sending."""
        return sum(s.done_s - s.sent_s > self.timeout_s + _LATE_S for s in self.seen)

    def check(self) -> None:
        """I1, I2, I3, I6 for every answer of the run."""
        for seen in self.seen:
            if seen.response is not None:
                assert not (why := self.oracle.fault(seen.response, [seen.number], K)), why
        # a loaded machine wakes this process late as well: three times the promise fails
        assert self.overtime_s <= 3 * _LATE_S, f"{self.overtime_s:.3f} s past the deadline (I3)"

    def codes(self, calls: Sequence[Seen] | None = None) -> dict[str, int]:
        """How many calls ended with each code."""
        counts: dict[str, int] = {}
        for seen in self.seen if calls is None else calls:
            counts[seen.code] = counts.get(seen.code, 0) + 1
        return counts


def quantile_s(calls: Sequence[Seen], share: float) -> float:
    """The latency that this share of the calls doesn't exceed, in seconds; 0 for none."""
    if not calls:
        return 0.0
    return float(np.quantile([seen.latency_s for seen in calls], share, method="higher"))


class InvalidRunError(AssertionError):
    """The load before the fault was not sound: the run says nothing."""


Ask = Callable[[int, float], Awaitable[tuple[str, pb.SearchResponse | None, str]]]
"""Asks query i within seconds: code, answer, and the typed error that its details tell."""


def requests_of(oracle: Oracle, texts: Sequence[str] = (), **parameters: object) -> list[bytes]:
    """One call a query: the oracle's vectors, or the `texts` that they were made from."""
    requests = []
    for number, row in enumerate(oracle.query_vectors):
        request = pb.SearchRequest(k=K, **parameters)
        if texts:
            request.queries.add(text=texts[number])
        else:
            request.queries.add().vector.CopyFrom(vectors.to_proto(row[None]))
        requests.append(request.SerializeToString())
    return requests


@contextlib.asynccontextmanager
async def asking(router: Router | str, requests: Sequence[bytes]):
    """An `Ask` over two connections to a router."""
    address = router if isinstance(router, str) else router.address
    async with open_channel(address) as one, open_channel(address) as two:
        methods = [c.unary_unary(METHOD, None, pb.SearchResponse.FromString) for c in (one, two)]

        async def ask(i: int, timeout_s: float) -> tuple[str, pb.SearchResponse | None, str]:
            try:
                response = await methods[i % 2](requests[i % len(requests)], timeout=timeout_s)
            except grpc.RpcError as failure:
                error = error_of(failure)
                return failure.code().name, None, f"{type(error).__name__}: {error.message}"
            return OK, response, ""

        yield ask


async def under_load(
    ask: Ask,
    oracle: Oracle,
    inject: Callable[[Run], Awaitable[None]],
    *,
    rate: float,
    timeout_s: float = 2.0,
    before_s: float = BEFORE_S,
    after_s: float = AFTER_S,
) -> Run:
    """Runs the load, injects the fault, and returns what was seen; `inject` ends it again.

    Raises:
        InvalidRunError: the seconds before the fault were unsound, twice.
    """
    for last_chance in (False, True):
        run = Run(oracle=oracle, timeout_s=timeout_s)
        async with _loading(ask, run, rate):
            await asyncio.sleep(_WARM_UP_S + before_s)
            run.fault_s = time.perf_counter()
            if why := unsound(run, rate):
                if last_chance:
                    raise InvalidRunError(f"invalid run: {why}")
                continue
            await inject(run)
            run.healed_s = time.perf_counter()
            await asyncio.sleep(after_s)
        return run
    raise AssertionError("unreachable")


def unsound(run: Run, rate: float) -> str:
    """Why what was seen before the fault is no ground to stand on; empty where it is."""
    before = run.before
    failed = [seen.code for seen in before if seen.code != OK]
    offered = (run.fault_s - run.begun_s - _WARM_UP_S) * rate
    if failed:
        return f"{len(failed)} calls failed before the fault: {failed[0]}"
    if len(before) < 0.95 * offered:
        return f"{len(before)} of {offered:.0f} calls were answered before the fault"
    return ""


@contextlib.asynccontextmanager
async def _loading(ask: Ask, run: Run, rate: float):
    """The load runs inside; what is under way at the end is waited for."""
    is_over = False
    n_queries = len(run.oracle.query_vectors)
    under_way = 0
    run.begun_s = time.perf_counter()

    async def send(i: int) -> Reply:
        nonlocal under_way
        if is_over:
            return Reply(code="NOT_SENT")
        sent_s = time.perf_counter()
        under_way += 1
        code, response, reason = await ask(i, run.timeout_s)
        under_way -= 1
        run.seen.append(
            Seen(
                number=i % n_queries, due_s=min(run.begun_s + i / rate, sent_s), sent_s=sent_s,
                done_s=time.perf_counter(), code=code, response=response, reason=reason,
            )
        )  # fmt: skip
        return Reply(code=code)

    stage = Stage(rate=rate, warmup_s=0.0, duration_s=_LONGEST_S)
    loading = asyncio.ensure_future(open_loop(send, enumerate(due_times(stage)), lambda _: None))
    try:
        yield
    finally:
        is_over = True
        for _ in range(int(100 * (run.timeout_s + 1))):
            if not under_way:
                break
            await asyncio.sleep(0.01)
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        assert not under_way, f"{under_way} calls never ended (I3)"


async def until(condition: Callable[[], object], within_s: float, what: str) -> float:
    """Returns after how many seconds it was so; the condition may block, it runs in a thread."""
    begun_s = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - begun_s < within_s, f"{what}: not within {within_s:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - begun_s
