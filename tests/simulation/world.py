"""Plays a schedule: the router's own code in simulated time, before simulated shards.

What runs is the program but for its sockets: the service, admission, the fan-out and its rounds,
lanes, replicas and their watching, reloads. What is replaced are gRPC's stubs, the topology file
(memory) and the encoder (questions are vectors).
"""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from simulation.harms import befall, pass_by
from simulation.process import ShardProcess
from simulation.schedule import Fault, Move, Question, Schedule
from simulation.stand_ins import CountedBudget, LoggedErrors, MemoryFile, NoChannel

from bench.simulated_time import SimulatedLoop, run_simulated
from router import shard_replica
from router.admission import Admission
from router.calls import Budgets
from router.config import RouterConfig
from router.file_source import FileSource
from router.registry import Registry
from router.reload import Reloader
from router.search import Searcher
from router.service import SearchServicer
from router.shard_client import ShardClient
from router.topology import Topology
from shoal.errors import ShoalError
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline
from shoal.v1 import priority_pb2, vectors_pb2
from shoal.v1 import search_pb2 as pb

SETTLE_S = 2.2
"""After the last question's deadline: for faults to pass and replicas to come back."""


LAST = Question(
    at_s=0.0,
    numbers=(1,),
    k=40,
    offset=0,
    min_coverage=1.0,
    timeout_s=2.0,
    is_bulk=False,
    leaves_after_s=None,
)
"""Asked when all is over: by then everything must be well again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How a question ended; `version` was served when it came."""

    question: Question
    begun_s: float
    ended_s: float
    version: int
    response: pb.SearchResponse | None
    error: BaseException | None


@dataclass(slots=True, kw_only=True)
class Played:
    """What a schedule led to."""

    schedule: Schedule
    processes: list[list[ShardProcess]]
    budgets: Budgets
    answers: list[Answered] = field(default_factory=list)
    moved: list[tuple[Move, ShoalError | None, int]] = field(default_factory=list)
    """Each move, why it failed, and the version served then."""
    served_versions: tuple[int, int] = (0, 0)
    """In the end: by the router, and by the topology file."""
    extras: dict[str, int] = field(default_factory=dict)
    """Retries and hedges that were carried out."""
    logged: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    """What was still under way when all had ended."""

    @property
    def replicas(self) -> list[ShardProcess]:
        """All processes."""
        return [process for shard in self.processes for process in shard]


def play(schedule: Schedule) -> Played:
    """Plays it, from the router's start to its end."""
    chance = random.Random(f"world {schedule.seed}")
    budgets = Budgets(
        retries=CountedBudget(0.15, floor=10, window_s=10.0),
        hedges=CountedBudget(0.05, floor=0, window_s=1.0),
    )
    played = Played(
        schedule=schedule,
        processes=[
            [ShardProcess(schedule.corpus, shard, chance) for _ in range(schedule.n_replicas)]
            for shard in range(schedule.corpus.n_shards)
        ],
        budgets=budgets,
    )
    before = _extras()
    with LoggedErrors(played.logged):
        run_simulated(lambda loop: _World(played, loop).run())
    played.extras = {name: n - before[name] for name, n in _extras().items()}
    return played


class _World:
    def __init__(self, played: Played, loop: SimulatedLoop) -> None:
        schedule = self._schedule = played.schedule
        self._played, self._loop = played, loop
        self._processes = {
            f"shard{s}-{r}:1": process
            for s, replicas in enumerate(played.processes)
            for r, process in enumerate(replicas)
        }
        self._file = MemoryFile(_topology(schedule))
        config = _config(schedule.inline_hits, schedule.max_queries)
        self._admission = Admission(
            config.max_queries, wait_s=config.max_wait_s, clock=self._loop.time
        )
        source = FileSource(self._file)  # type: ignore[arg-type]
        self._registry = Registry(config, source, n_active=lambda: self._admission.n_queries)
        searcher = Searcher(random.Random(f"router {schedule.seed}"), config)
        self._fanout = searcher._fanout
        self._fanout._budgets = played.budgets
        self._service = SearchServicer(self._registry, searcher, self._admission)
        self._reloader = Reloader(self._registry, release_after_s=0.5)

    async def run(self) -> None:
        original = shard_replica.ShardClient
        shard_replica.ShardClient = self._client  # type: ignore[misc,assignment]
        try:
            async with self._registry:
                await self._registry.ready()
                await self._play()
                self._look_for_leaks()
        finally:
            shard_replica.ShardClient = original  # type: ignore[misc]
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        self._played.left_over += [f"task {task.get_name()}" for task in others]

    def _client(self, address: str, *, inline_hits: int, credentials: object) -> ShardClient:
        """The router's own client before a simulated process: all but its channel."""
        del credentials
        client = ShardClient.__new__(ShardClient)
        client.address = address
        client._inline_hits = inline_hits
        client._metadata = ()
        client._channel = NoChannel()  # type: ignore[assignment]
        client._stub = self._processes[address]  # type: ignore[assignment]
        return client

    async def _play(self) -> None:
        schedule = self._schedule
        if schedule.is_warm:
            self._warm()
        async with asyncio.TaskGroup() as tasks:
            for question in schedule.questions:
                tasks.create_task(self._ask(question))
            for fault in schedule.faults:
                tasks.create_task(self._harm(fault))
            for move in schedule.moves:
                tasks.create_task(self._move(move))
        await asyncio.sleep(SETTLE_S)
        await self._ask(LAST)
        served = self._registry.served.indexes["books"].version
        self._played.served_versions = (served, self._file.version)

    def _warm(self) -> None:
        for replicas in self._registry.served.indexes["books"].shards:
            for replica in replicas:
                for number in range(40):
                    replica.latencies.observe(0.003 + 0.0001 * number, self._loop.time())

    async def _ask(self, question: Question) -> None:
        await asyncio.sleep(question.at_s)
        begun_s = self._loop.time()
        version = self._registry.served.indexes["books"].version
        response, error = None, None
        try:
            response = await self._call(question)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 -- the oracle judges
            error = failure
        self._played.answers.append(
            Answered(
                question=question,
                begun_s=begun_s,
                ended_s=self._loop.time(),
                version=version,
                response=response,
                error=error,
            )
        )

    async def _call(self, question: Question) -> pb.SearchResponse:
        call = asyncio.ensure_future(
            self._service._answer(_request(question), Deadline.after(question.timeout_s))
        )
        if question.leaves_after_s is not None:
            self._loop.call_later(question.leaves_after_s, call.cancel)
        return await call

    async def _move(self, move: Move) -> None:
        await asyncio.sleep(move.at_s)
        process = self._played.processes[0][0]
        process.cannot_load = process.cannot_load or move.is_bad
        failure = None
        try:
            await self._reloader.reload("books", move.version, Deadline.after(move.timeout_s))
        except ShoalError as refused:
            failure = refused
        served = self._registry.served.indexes["books"].version
        self._played.moved.append((move, failure, served))

    async def _harm(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        process = self._played.processes[fault.shard][fault.replica]
        befall(process, fault, self._loop.time())
        await asyncio.sleep(fault.lasts_s)
        pass_by(process, fault, self._file.version)

    def _look_for_leaks(self) -> None:
        left = self._played.left_over
        for replicas in self._registry.served.indexes["books"].shards:
            for replica in replicas:
                for lane in (replica.searches, replica.passages):
                    if lane.load or lane.in_flight:
                        left.append(
                            f"{replica.address}: {lane.load} riders, {lane.in_flight} calls"
                        )
        left += [f"{p.calls} at {a}" for a, p in self._processes.items() if len(p.calls) > 1]
        if self._admission.n_queries:
            left.append(f"{self._admission.n_queries} queries in admission")
        for gate in self._admission._gates.values():
            if gate.load.interactive or gate.load.bulk:
                left.append(f"admission holds {gate.load}")
        if self._registry.users._n_users:
            left.append(f"versions in use: {self._registry.users._n_users}")


def _extras() -> dict[str, int]:
    """Of this process, as its metrics count them."""
    counted = {"retries": metrics.RETRIES.labels("shard"), "hedges": metrics.HEDGES}
    return {name: int(counter._value.get()) for name, counter in counted.items()}


_CONFIGS: dict[tuple[int, int], RouterConfig] = {}


def _config(inline_hits: int, max_queries: int) -> RouterConfig:
    """One a kind: reading settings takes longer than a schedule."""
    key = (inline_hits, max_queries)
    if key not in _CONFIGS:
        _CONFIGS[key] = RouterConfig(
            topology=Path("simulated"), inline_hits=inline_hits, max_queries=max_queries
        )
    return _CONFIGS[key]


def _topology(schedule: Schedule) -> Topology:
    shards = [
        [f"shard{shard}-{replica}:1" for replica in range(schedule.n_replicas)]
        for shard in range(schedule.corpus.n_shards)
    ]
    return Topology.model_validate({"indexes": [{"name": "books", "version": 1, "shards": shards}]})


def _request(question: Question) -> pb.SearchRequest:
    vectors = [np.array([number, 1], dtype="<f4").tobytes() for number in question.numbers]
    request = pb.SearchRequest(
        index="books",
        k=question.k,
        offset=question.offset,
        min_coverage=question.min_coverage,
        queries=[
            pb.Query(
                vector=vectors_pb2.Vectors(
                    n_rows=1, dim=2, dtype=vectors_pb2.VECTOR_DTYPE_FLOAT32, packed=vector
                )
            )
            for vector in vectors
        ],
    )
    request.fields.paths.append("title")
    if question.is_bulk:
        request.priority = priority_pb2.PRIORITY_BULK
    return request
