"""Live recall over real shard servers: a router's figure beside an oracle's, in one process."""

import asyncio
import contextlib
import json
import random
import time

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

from router.admission import Admission
from router.config import RouterConfig
from router.file_source import FileSource
from router.live_recall import LiveRecall
from router.recall import estimate
from router.registry import Registry
from router.search import Searcher
from router.service import SearchServicer
from router.topology_file import TopologyFile
from shard_server.config import ShardConfig
from shard_server.service import ShardServicer
from shoal import vectors
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.deadline import Deadline
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2 as pb

N_SHARDS = 2


@contextlib.asynccontextmanager
async def shard_server(folder, shard):
    """Its address."""
    servicer = ShardServicer(ShardConfig(index=folder, shard=shard, device="cpu"))
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await servicer.start()
    yield f"127.0.0.1:{port}"
    await server.stop(1)
    await servicer.stop()


@contextlib.asynccontextmanager
async def router(folder):
    """A router's service over real shard servers; it measures all that it can."""
    async with contextlib.AsyncExitStack() as stack:
        shards = [
            [await stack.enter_async_context(shard_server(folder, shard))]
            for shard in range(N_SHARDS)
        ]
        told = {"format": 1, "indexes": [{"name": "tiny", "version": 1, "shards": shards}]}
        (folder / "topology.json").write_text(json.dumps(told))
        # one process plays all: a check that it holds up must leave no shard out
        config = RouterConfig(topology=folder / "topology.json", check_timeout_s=10.0)
        source = FileSource(TopologyFile(folder / "topology.json"))
        admission = Admission(config.max_queries)
        registry = await stack.enter_async_context(Registry(config, source, n_active=lambda: 0))
        await registry.ready()
        recall = LiveRecall(registry, admission, random.Random(1), budget=1.0)
        yield SearchServicer(registry, Searcher(random.Random(2), config), admission, recall)


def figure(name):
    return REGISTRY.get_sample_value(name, {"index": "tiny"}) or 0.0


async def sampled(n, seconds=60.0):
    end_s = time.monotonic() + seconds
    while figure("shoal_live_recall_sampled_total") < n:
        assert time.monotonic() < end_s, "it was never measured"
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("oversample", [10.0, 0.0], ids=["rescored", "by codes alone"])
async def test_a_router_tells_the_recall_that_an_oracle_finds(
    tmp_path, corpus, write_index, oracle, oversample
):
    """One list of 32 is searched, which misses much; the oracle is numpy over all passages."""
    write_index(tmp_path, "IVF32,PQ16", n_shards=N_SHARDS)
    # the first asks for 40 equal passages: any of them will do
    queries = corpus.queries[:30]
    scores, _ = oracle(corpus.vectors, queries, 10)
    recalls = []
    async with router(tmp_path) as service:
        before = figure("shoal_live_recall_sampled_total")
        for number, query in enumerate(queries):
            request = pb.SearchRequest(n_probe=1, oversample=oversample)
            request.queries.add().vector.CopyFrom(vectors.to_proto(query[None]))
            answer = await service._answer(request, Deadline.after(20))
            ordinals = [hit.ordinal for hit in answer.results[0].hits]
            served = corpus.vectors[ordinals].astype(np.float64) @ query.astype(np.float64)
            recalls.append((served >= scores[number, -1] - 1e-6).sum() / 10)
            await sampled(before + number + 1)
        expected = estimate(np.array(recalls))
        assert 0.2 < expected.recall < 0.98
        assert figure("shoal_live_recall") == pytest.approx(expected.recall)
        assert figure("shoal_live_recall_low") == pytest.approx(expected.low)
        assert figure("shoal_live_recall_high") == pytest.approx(expected.high)
        assert figure("shoal_live_recall_cpu_seconds_total") > 0.0
