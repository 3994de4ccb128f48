"""A simulated shard server, behind the stub through which the router's own client calls it.

One server, first come first served; it can be killed, frozen, slowed, and made to refuse or to lie.
Replies are the contract's messages and errors gRPC's own: all of the router runs but its sockets.
"""

import asyncio
import collections
import enum
import random

import grpc
import numpy as np
from simulation.corpus import N_VERSIONS, Corpus, passage_id

from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)
from shoal.internal.v1 import shard_pb2 as pb
from shoal.rpc.status import trailing_metadata
from shoal.v1 import search_pb2

DIM = 2
NETWORK_S = 0.0002


class Lie(enum.Enum):
    """How a reply can break the contract."""

    UNSORTED = "unsorted"
    NOT_A_NUMBER = "not a number"
    TWICE = "twice"
    FOREIGN = "foreign"
    OTHER_VERSION = "other version"
    TOO_MANY = "too many"
    TORN = "torn"


class ShardProcess:
    """One replica of one shard."""

    def __init__(self, corpus: Corpus, shard: int, chance: random.Random) -> None:
        self.corpus, self.shard = corpus, shard
        self.chance = chance
        self.is_alive = True
        self.versions = {1}
        self.frozen_until_s = 0.0
        self.slowness = 1.0
        self.refusal: ShoalError | None = None
        self.lie: Lie | None = None
        self.cannot_load = False
        self.was_harmed = False
        """Whether any fault ever befell it."""
        self.honest: dict[tuple[int, int], list[float]] = {}
        """By version and question: when true replies left."""
        self.calls: dict[asyncio.Future[None], float] = {}
        self.n_calls = 0
        self._queue: collections.deque[tuple[asyncio.Future[None], float]] = collections.deque()
        self._is_busy = False

    def kill(self) -> None:
        """Calls under way break off; what it had open is gone."""
        self.is_alive = False
        self.versions = set()
        for call in list(self.calls):
            if not call.done():
                call.set_exception(_failed(UnavailableError("the connection broke")))

    def start(self, version: int) -> None:
        """A new process, with the version that the topology names."""
        self.is_alive = True
        self.versions = {version}
        self.frozen_until_s = 0.0

    # what the router's client calls; names and arguments are gRPC's

    async def SearchShard(self, request, *, timeout, metadata):  # noqa: ASYNC109 -- gRPC's
        del metadata
        asked = np.frombuffer(request.query_vectors.packed, "<f4").reshape(-1, DIM)
        questions = [int(number) for number in asked[:, 0]]
        await self._work(timeout, self._service_s(len(questions)))
        if self.refusal is not None:
            raise _failed(self.refusal)
        self._refuse_version(request.version)
        if not self._lies(request.version):
            now_s = asyncio.get_running_loop().time()
            for question in questions:
                self.honest.setdefault((request.version, question), []).append(now_s)
        return self._reply(request, questions)

    async def GetPassages(self, request, *, timeout, metadata):  # noqa: ASYNC109 -- gRPC's
        del metadata
        rows = np.frombuffer(request.rows, "<u4").tolist()
        await self._work(timeout, self._service_s(1))
        self._refuse_version(request.version)
        return pb.GetPassagesResponse(
            version=request.version, passages=_columns(request.version, rows)
        )

    async def GetShard(self, request, *, timeout, metadata):  # noqa: ASYNC109 -- gRPC's
        del request, metadata
        await self._work(timeout, 0.0)  # on the event loop, beside the search thread
        return pb.GetShardResponse(
            index="books",
            shard=self.shard,
            versions=[self._described(version) for version in sorted(self.versions)],
        )

    async def LoadVersion(self, request, *, timeout, metadata):  # noqa: ASYNC109 -- gRPC's
        del metadata
        await self._work(timeout, self.chance.uniform(0.0, 0.1))
        if self.cannot_load or request.version > N_VERSIONS:
            raise _failed(FailedPreconditionError("bit flip"))
        self.versions.add(request.version)
        return pb.LoadVersionResponse(version=self._described(request.version))

    async def ReleaseVersion(self, request, *, timeout, metadata):  # noqa: ASYNC109 -- gRPC's
        del metadata
        await self._work(timeout, 0.0)
        self.versions.discard(request.version)
        return pb.ReleaseVersionResponse()

    def _service_s(self, n_queries: int) -> float:
        tail = 10.0 if self.chance.random() < 0.01 else 1.0
        return self.slowness * tail * (self.chance.uniform(0.001, 0.004) + 0.0002 * n_queries)

    def _lies(self, version: int) -> bool:
        """Whether replies are untrue now: most lies take a hit to tell them of."""
        if self.lie in {None, Lie.OTHER_VERSION, Lie.TOO_MANY}:
            return self.lie is not None
        return bool(self.corpus.n_live[version][self.shard])

    def _refuse_version(self, version: int) -> None:
        if version not in self.versions:
            raise _failed(
                FailedPreconditionError(f"version {version} is not open", reason="WRONG_VERSION")
            )

    async def _work(self, timeout_s: float, service_s: float) -> None:
        """Waits in the queue and for the work; gRPC's own failures come from here."""
        loop = asyncio.get_running_loop()
        self.n_calls += 1
        call: asyncio.Future[None] = loop.create_future()
        if not self.is_alive:
            loop.call_later(NETWORK_S, _fail, call, UnavailableError("connection refused"))
        else:
            loop.call_later(NETWORK_S, self._arrive, call, service_s)
        timer = loop.call_later(timeout_s, _fail, call, DeadlineExceededError("Deadline Exceeded"))
        self.calls[call] = loop.time()
        try:
            await call
        finally:
            timer.cancel()
            del self.calls[call]

    def _arrive(self, call: "asyncio.Future[None]", service_s: float) -> None:
        if not service_s:
            self._end(call)
            return
        self._queue.append((call, service_s))
        if not self._is_busy:
            self._begin_next()

    def _begin_next(self) -> None:
        while self._queue:
            call, service_s = self._queue.popleft()
            if not call.done():  # who has left is not searched for
                self._is_busy = True
                asyncio.get_running_loop().call_later(service_s, self._end_work, call)
                return
        self._is_busy = False

    def _end_work(self, call: "asyncio.Future[None]") -> None:
        self._begin_next()
        self._end(call)

    def _end(self, call: "asyncio.Future[None]") -> None:
        """The answer leaves; of a frozen process when it goes on."""
        if call.done():
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self.frozen_until_s:
            loop.call_at(self.frozen_until_s + NETWORK_S, self._end, call)
        else:
            call.set_result(None)

    def _described(self, version: int) -> pb.ShardVersion:
        return pb.ShardVersion(
            version=version,
            n_live_by_shard=self.corpus.n_live[version],
            dim=DIM,
            recipe="IVF16,PQ2",
            score_kind=search_pb2.SCORE_KIND_INNER_PRODUCT,
            n_lists=16,
            default_n_probe=8,
            default_oversample=10.0,
            next_ordinal=sum(self.corpus.n_live[version]),
        )

    def _reply(self, request, questions: list[int]) -> pb.SearchShardResponse:
        version, k = request.version, request.k
        ranked = [self.corpus.ranked(version, self.shard, question)[:k] for question in questions]
        width = max(map(len, ranked))
        ordinals = [[hit[1] for hit in hits] for hits in ranked]  # all alike wide: one shard's
        scores = [[hit[0] for hit in hits] for hits in ranked]
        if self.lie is not None and width:
            _spoil(self.lie, ordinals, scores, foreign=sum(self.corpus.n_live[version]))
        has_others_version = self.lie is Lie.OTHER_VERSION
        flat = np.array(ordinals, dtype="<i8")
        reply = pb.SearchShardResponse(
            version=version + 1 if has_others_version else version,
            n_queries=len(questions) + (self.lie is Lie.TOO_MANY),
            width=width,
            ordinals=flat.tobytes()[: -1 if self.lie is Lie.TORN else None],
            segments=np.zeros_like(flat, dtype="<u4").tobytes(),
            rows=flat.astype("<u4").tobytes(),
            scores=np.array(scores, dtype="<f4").tobytes(),
            accuracy=search_pb2.ACCURACY_APPROXIMATE,
        )
        if request.HasField("inline_fields"):
            reply.passages.CopyFrom(_columns(version, flat.ravel().tolist()))
        return reply


def _spoil(lie: Lie, ordinals: list[list[int]], scores: list[list[float]], *, foreign: int) -> None:
    for places, values in zip(ordinals, scores, strict=True):
        if lie is Lie.UNSORTED and len(values) > 1:
            values[0] = values[-1] - 1.0
        elif lie is Lie.TWICE and len(places) > 1:
            places[1] = places[0]
        elif lie is Lie.FOREIGN:
            places[-1] = foreign
        elif lie in {Lie.NOT_A_NUMBER, Lie.UNSORTED, Lie.TWICE}:  # the latter two take two hits
            values[0] = float("nan")


def _columns(version: int, ordinals: list[int]) -> pb.PassageColumns:
    ids = [passage_id(version, ordinal).encode() for ordinal in ordinals]
    offsets = np.cumsum([0, *map(len, ids)]).astype("<u4").tobytes()
    column = pb.TextColumn(data=b"".join(ids), offsets=offsets)
    return pb.PassageColumns(ids=column, titles=column)


def _failed(error: ShoalError) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*trailing_metadata(error))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), trailing, error.message)


def _fail(call: "asyncio.Future[None]", error: ShoalError) -> None:
    if not call.done():
        call.set_exception(_failed(error))


REFUSALS = (
    OverloadedError("too much work waits", retry_after_s=0.1),
    CancelledError("cancelled by the server"),
    FailedPreconditionError("version 9 is not open", reason="WRONG_VERSION"),
)
"""What a process may answer instead of hits."""
