"""A whole cluster in one process: scripted shards and encoder, the real router, real sockets."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from fakes.corpus import Corpus, Hits
from fakes.encoder import FINGERPRINT, FakeEncoder
from fakes.shards import FakeShard

from router import round as round_
from router import waiting
from router.admin import AdminServicer
from router.admission import Admission
from router.config import RouterConfig
from router.file_source import FileSource
from router.lease_source import LeaseSource
from router.live_recall import LiveRecall
from router.registry import Registry
from router.reload import Reloader
from router.search import Searcher
from router.service import SearchServicer
from router.topology_file import TopologyFile
from shoal import vectors
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.tracing.tracer import Tracer
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc


@dataclass
class Cluster:
    """Shards as [shard][replica]; `stub` talks to the router."""

    corpus: Corpus
    shards: list[list[FakeShard]]
    encoders: list[FakeEncoder]
    topology: Path
    version: int = 1
    registry: Registry = field(init=False)
    admission: Admission = field(init=False)
    searcher: Searcher = field(init=False)
    stub: search_pb2_grpc.SearchServiceStub = field(init=False)
    admin: admin_pb2_grpc.AdminServiceStub = field(init=False)
    address: str = field(init=False)

    @property
    def replicas(self) -> list[FakeShard]:
        return [replica for replicas in self.shards for replica in replicas]

    @property
    def n_searches(self) -> int:
        return sum(replica.script.n_searches for replica in self.replicas)

    @property
    def n_under_way(self) -> int:
        """Items queued or under way in the router's lanes."""
        index = self.registry.served.indexes["books"]
        replicas = [replica for replicas in index.shards for replica in replicas]
        shards = sum(r.searches.load + r.passages.load for r in replicas)
        return shards + sum(encoder.load for encoder in self.registry.served.encoders)

    def write_topology(self, addresses: list[list[str]] | None = None) -> None:
        """Replaces the topology file in one rename."""
        shards = addresses or [[r.address for r in replicas] for replicas in self.shards]
        told = {
            "format": 1,
            "indexes": [{"name": "books", "version": self.version, "shards": shards}],
            "encoders": [encoder.address for encoder in self.encoders],
        }
        new = self.topology.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(self.topology)

    async def search(self, request: pb.SearchRequest, timeout_s: float = 20.0):
        return await self.stub.Search(request, timeout=timeout_s)

    def check_within(self, shard: int, replica: int, timeout_s: float) -> None:
        """From the next check on this replica alone must answer its checks within so long.

        Who hangs is to be found out soon, and not who shares a slow machine with it.
        """
        watched = self.registry.served.indexes["books"].shards[shard][replica]
        watched._config = watched._config.model_copy(update={"check_timeout_s": timeout_s})

    def usable(self) -> list[list[bool]]:
        """Which replicas the router uses, as [shard][replica]."""
        shards = self.registry.served.indexes["books"].shards
        return [[replica.usable for replica in replicas] for replicas in shards]


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    n_shards: int = 2,
    n_replicas: int = 1,
    n_encoders: int = 1,
    corpus: Corpus | None = None,
    recipe: str = "Flat",
    max_queries: int = 16_384,
    probe_texts: tuple[str, ...] = (),
    leases: LeaseSource | None = None,
    tracer: Tracer | None = None,
    **settings: object,
) -> AsyncIterator[Cluster]:
    """Starts everything and returns when the router has asked every replica once.

    With `leases` the router follows them and not the file, nothing is announced yet, and nobody has
    waited for it to be ready.
    """
    corpus = corpus or Corpus(n_shards=n_shards)
    fingerprint = FINGERPRINT if n_encoders else ""
    shards = [
        [
            FakeShard(
                corpus, shard, fingerprint=fingerprint, recipe=recipe, probe_texts=probe_texts
            )
            for _ in range(n_replicas)
        ]
        for shard in range(n_shards)
    ]
    encoders = [FakeEncoder(dim=corpus.dim) for _ in range(n_encoders)]
    for process in (*(r for replicas in shards for r in replicas), *encoders):
        await process.start()
    cluster = Cluster(corpus, shards, encoders, folder / "topology.json")
    cluster.write_topology()
    # few inline hits, so that small requests see a fetch round as well; a slow machine may wait,
    # and a check that it holds up leaves nobody out: that would be another test's answer
    settings = {
        "inline_hits": 64, "max_wait_s": 10.0, "check_timeout_s": 10.0,
        "check_s": 0.05, "recheck_s": 0.05, "release_after_s": 0.0, "live_recall_budget": 0.0,
        **settings
    }  # fmt: skip
    config = RouterConfig(topology=cluster.topology, max_queries=max_queries, **settings)
    server = grpc.aio.server(
        interceptors=(ShoalInterceptor(tracer=tracer),), options=server_options()
    )
    try:
        admission = Admission(config.max_queries, wait_s=config.max_wait_s)
        source = leases or FileSource(TopologyFile(cluster.topology))
        async with Registry(config, source, n_active=lambda: admission.n_queries) as registry:
            cluster.registry = registry
            chance = random.Random(3)
            cluster.admission, cluster.searcher = admission, Searcher(chance, config)
            budget = config.live_recall_budget
            live_recall = LiveRecall(registry, admission, chance, budget=budget) if budget else None
            searches = SearchServicer(registry, cluster.searcher, admission, live_recall)
            reloader = Reloader(registry, release_after_s=config.release_after_s)
            admin = AdminServicer(registry, reloader, leases, config.peer_credentials)
            search_pb2_grpc.add_SearchServiceServicer_to_server(searches, server)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
            cluster.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            if leases is None:
                await registry.ready()
            async with open_channel(cluster.address) as channel:
                cluster.stub = search_pb2_grpc.SearchServiceStub(channel)
                cluster.admin = admin_pb2_grpc.AdminServiceStub(channel)
                yield cluster
            await server.stop(1.0)
    finally:
        for process in (*cluster.replicas, *encoders):
            await process.stop()


def never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is asked of a sibling too for taking long: that counts, and it spends the budget of
    retries, which a machine that stalls would use up before anything is broken.
    """
    monkeypatch.setattr(waiting, "_LATE_FLOOR_S", 3_600.0)
    monkeypatch.setattr(round_, "_FIRST_LOOK_S", 3_600.0)


def vector_request(query_vectors: np.ndarray, **parameters: object) -> pb.SearchRequest:
    """A request of one query for each row."""
    request = pb.SearchRequest(**parameters)
    for row in query_vectors:
        request.queries.add().vector.CopyFrom(vectors.to_proto(row[None]))
    return request


def text_request(*texts: str, **parameters: object) -> pb.SearchRequest:
    """A request of one query for each text."""
    return pb.SearchRequest(queries=[pb.Query(text=text) for text in texts], **parameters)


def hits_of(result: pb.QueryResult) -> Hits:
    return Hits([hit.ordinal for hit in result.hits], [hit.score for hit in result.hits])


async def eventually(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    """Returns when it is so; fails when it isn't in time."""
    end_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end_s, "it never became so"
        await asyncio.sleep(0.005)
