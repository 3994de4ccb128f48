"""A router with its HTTP port in this process, over scripted shards, and a real client for it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from fakes.cluster import Cluster, running

from router.config import RouterConfig
from router.http.endpoints import Endpoints
from router.http.port import HttpPort
from router.service import SearchServicer
from router.slow_queries import SlowQueries
from shoal.tracing.tracer import Tracer


@dataclass
class Site:
    """The port, a client that is at home there, and the cluster behind it."""

    url: str
    client: aiohttp.ClientSession
    cluster: Cluster

    async def post(self, path: str, **arguments):
        """Status and JSON."""
        async with self.client.post(self.url + path, **arguments) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **arguments):
        """Status and JSON."""
        async with self.client.get(self.url + path, **arguments) as answer:
            return answer.status, await answer.json()


@contextlib.asynccontextmanager
async def port_over(
    cluster: Cluster, *, tracer: Tracer | None = None, **settings: object
) -> AsyncIterator[str]:
    """The HTTP port over a running cluster; yields its URL."""
    settings = {"http_port": 0, "grace_s": 1.0, **settings}
    config = RouterConfig(topology=cluster.topology, **settings)
    slow_queries = SlowQueries()
    service = SearchServicer(
        cluster.registry, cluster.searcher, cluster.admission, slow_queries=slow_queries
    )
    port = HttpPort(
        config,
        Endpoints(
            answer=service.answer,
            served=lambda: cluster.registry.served,
            n_in_flight=lambda: cluster.admission.n_queries,
            slow_queries=slow_queries,
        ),
    )
    try:
        yield await port.open(tracer)
    finally:
        await port.close()


@pytest.fixture(name="port_over")
def _port_over():
    return port_over


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with (
        running(tmp_path) as cluster,
        port_over(cluster) as url,
        aiohttp.ClientSession() as client,
    ):
        yield Site(url, client, cluster)
