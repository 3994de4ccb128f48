"""One cell of the scale simulation: a fan-out to many simulated shards, and what it came to.

Rule: `router.fanout.FanOut` itself runs, in simulated time, with its rounds, budgets, patience and
choice of replicas; what is modelled are the replicas: each serves one query at a time, first come
first served, and drops a cancelled one that still waits. Knows neither tables nor plots.
"""

import asyncio
import collections
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.simulated_time import SimulatedLoop, run_simulated
from router.config import RouterConfig
from router.fanout import FanOut
from router.outcomes import Outcome
from router.quantile import LatencyWindow
from router.shard_reply import SearchSettings
from router.standing import Standing, State
from router.waiting import LATENCY_WINDOW_S
from shoal.rpc.deadline import Deadline
from shoal.v1 import priority_pb2

N_REPLICAS = 2
MEDIAN_S = 0.003
SIGMA = 0.35
NETWORK_S = 0.0004
SLOW_FACTOR = 10.0
SLOW_SHARE = 0.01
DEADLINE_S = 1.0
MIN_COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A setting.

    `load` is how busy replicas are; `slow`: "calls", each with a chance of 1 %, or "replicas", 1 %
    of them always.
    """

    n_shards: int
    slow: str
    load: float
    hedging: bool
    adaptive: bool
    n_queries: int
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a cell came to; times in seconds, extra calls as a share of shards x queries."""

    cell: Cell
    p50_s: float
    p99_s: float
    coverage: float
    complete: float
    extra_calls: float


class Leaf:
    """A replica of a shard."""

    def __init__(self, chance: random.Random, slowness: float, slow_calls: float) -> None:
        self.standing = Standing(state=State.HEALTHY)
        self.load = 0
        self.searches = self
        self.n_asked = 0
        self.latencies = LatencyWindow(LATENCY_WINDOW_S)
        self._chance, self._slowness, self._slow_calls = chance, slowness, slow_calls
        self._queue: collections.deque[asyncio.Future[Leaf]] = collections.deque()
        self._is_busy = False
        self.arrived_s = 0.0

    def judge(self, *, since_s: float, well: bool, spare: bool) -> None:
        """As a replica's; the watch's check always passes, a pause later."""
        loop = asyncio.get_running_loop()
        if well:
            self.standing = self.standing.after_good_answer()
            return
        before = self.standing
        self.standing = before.after_strike(loop.time(), since_s=since_s, spare=spare)
        if self.standing.state is State.DOUBTED and before.state is not State.DOUBTED:
            # the first check after the pause: one every 0.2 s looks
            loop.call_at(self.standing.not_before_s + 0.1, self._check)

    def suspect(self) -> None:
        """As a replica's; its check would pass."""

    def _check(self) -> None:
        self.standing = self.standing.after_check(asyncio.get_running_loop().time())

    def submit(self, _job: object, **_: object) -> "asyncio.Future[Leaf]":
        """As a lane's; the reply is this leaf, whose `arrived_s` is the latest reply's."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Leaf] = loop.create_future()
        self.load += 1
        self.n_asked += 1
        answer.add_done_callback(self._leave)
        loop.call_later(NETWORK_S, self._arrive, answer)
        return answer

    def _leave(self, _answer: object) -> None:
        self.load -= 1

    def _arrive(self, answer: "asyncio.Future[Leaf]") -> None:
        self._queue.append(answer)
        if not self._is_busy:
            self._serve()

    def _serve(self) -> None:
        while self._queue:
            answer = self._queue.popleft()
            if not answer.done():
                self._is_busy = True
                asyncio.get_running_loop().call_later(self._service_s(), self._end, answer)
                return
        self._is_busy = False

    def _end(self, answer: "asyncio.Future[Leaf]") -> None:
        if not answer.done():
            self.arrived_s = asyncio.get_running_loop().time()
            answer.set_result(self)
        self._serve()

    def _service_s(self) -> float:
        slowness = self._slowness
        if self._slow_calls and self._chance.random() < self._slow_calls:
            slowness *= SLOW_FACTOR
        return slowness * self._chance.lognormvariate(0.0, SIGMA) * MEDIAN_S


def simulate(cell: Cell) -> Figures:
    """Plays `cell.n_queries` questions that come by chance (Poisson) at the modelled load."""
    return run_simulated(lambda loop: _play(cell, loop))


async def _play(cell: Cell, loop: SimulatedLoop) -> Figures:
    chance = random.Random(cell.seed)
    shards = _leaves(cell, chance)
    config = RouterConfig(topology=Path("simulated"), hedge_share=0.05 if cell.hedging else 0.0)
    fanout = FanOut(random.Random(cell.seed + 1), config)
    settings = [_SETTINGS] * cell.n_shards
    vectors = np.zeros((1, 1), dtype=np.float32)
    n_live = (1,) * cell.n_shards
    took_s: list[float] = []
    coverage: list[float] = []

    async def ask() -> None:
        begun_s = loop.time()
        replies = await fanout.search(
            shards,  # type: ignore[arg-type]
            settings,
            vectors,
            Deadline.after(DEADLINE_S),
            n_live_by_shard=n_live,
            min_coverage=MIN_COVERAGE if cell.adaptive else 1.0,
        )
        n_ok = sum(outcome.outcome is Outcome.OK for outcome in replies.outcomes.values())
        took_s.append(loop.time() - begun_s)
        coverage.append(n_ok / cell.n_shards)

    rate = cell.load * N_REPLICAS / (MEDIAN_S * float(np.exp(SIGMA**2 / 2)))
    n_warming = cell.n_queries // 10
    n_asked_before = 0
    async with asyncio.TaskGroup() as tasks:
        for number in range(cell.n_queries + n_warming):
            if number == n_warming:
                n_asked_before = _n_asked(shards)
                took_s.clear()
                coverage.clear()
            tasks.create_task(ask())
            await asyncio.sleep(chance.expovariate(rate))
    n_calls = _n_asked(shards) - n_asked_before
    return Figures(
        cell=cell,
        p50_s=float(np.percentile(took_s, 50)),
        p99_s=float(np.percentile(took_s, 99)),
        coverage=float(np.mean(coverage)),
        complete=float(np.mean([share == 1.0 for share in coverage])),
        extra_calls=n_calls / (cell.n_queries * cell.n_shards) - 1.0,
    )


def _n_asked(shards: tuple[tuple[Leaf, ...], ...]) -> int:
    return sum(leaf.n_asked for replicas in shards for leaf in replicas)


def _leaves(cell: Cell, chance: random.Random) -> tuple[tuple[Leaf, ...], ...]:
    """1 % of the replicas are slow where these are to be: at least one, of shards of their own."""
    n_slow = max(1, round(SLOW_SHARE * cell.n_shards * N_REPLICAS))
    slow = set(chance.sample(range(cell.n_shards), n_slow)) if cell.slow == "replicas" else set()
    slow_calls = SLOW_SHARE if cell.slow == "calls" else 0.0
    return tuple(
        tuple(
            Leaf(
                # of its own, so that the cells differ in their rules and not in their luck
                random.Random(f"{cell.seed} {shard} {number}"),
                SLOW_FACTOR if shard in slow and not number else 1.0,
                slow_calls,
            )
            for number in range(N_REPLICAS)
        )
        for shard in range(cell.n_shards)
    )


_SETTINGS = SearchSettings(
    index="simulated",
    version=1,
    k=10,
    n_probe=64,
    candidates=0,
    exact=False,
    priority=priority_pb2.PRIORITY_INTERACTIVE,
    fields=frozenset(),
)
