"""Starts one router: `python -m router --topology FILE --port 50051`.

Without a file: `python -m router --topology-source leases`.
"""

import random

from prometheus_client import REGISTRY

from router.admin import AdminServicer
from router.admission import Admission
from router.config import RouterConfig
from router.dns_source import DnsSource
from router.file_source import FileSource
from router.lease_source import LeaseSource
from router.live_recall import LiveRecall
from router.registry import Registry
from router.reload import Reloader
from router.search import Searcher
from router.service import SearchServicer
from router.slow_queries import Answer, SlowQueries
from router.standing_gauges import StandingGauges
from router.topology_file import TopologyFile
from shoal.errors import ConfigError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc import metrics
from shoal.rpc.listening import Beside
from shoal.rpc.server import Service, run, serve
from shoal.v1 import search_pb2, search_pb2_grpc


async def main(config: RouterConfig) -> None:
    """Serves until told to stop."""
    _ = config.peer_credentials  # read now: a fault in them ends the start
    source = source_of(config)
    admission = Admission(config.max_queries, wait_s=config.max_wait_s)
    async with Registry(config, source, n_active=lambda: admission.n_queries) as registry:
        budget = config.live_recall_budget
        live_recall = (
            LiveRecall(registry, admission, random.Random(), budget=budget) if budget else None
        )
        searcher = Searcher(random.Random(), config)
        slow_queries = SlowQueries() if config.http_port is not None else None
        searches = SearchServicer(
            registry, searcher, admission, live_recall, slow_queries=slow_queries
        )
        metrics.IN_FLIGHT.labels("router").set_function(lambda: admission.n_queries)
        metrics.QUEUE_DEPTH.labels("router").set_function(lambda: registry.served.n_waiting)
        REGISTRY.register(StandingGauges(lambda: registry.served))
        reloader = Reloader(registry, release_after_s=config.release_after_s)
        leases = source if isinstance(source, LeaseSource) else None
        admin = AdminServicer(registry, reloader, leases, config.peer_credentials)
        services = [
            Service(
                full_name=search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
                add=lambda server: search_pb2_grpc.add_SearchServiceServicer_to_server(
                    searches, server
                ),
            ),
            Service(
                full_name=admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
                add=lambda server: admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server),
            ),
        ]
        beside = None
        if slow_queries is not None:
            beside = http_port(config, registry, searches.answer, admission, slow_queries)
        await serve(config, services, start=registry.ready, beside=beside)


def http_port(
    config: RouterConfig,
    registry: Registry,
    answer: Answer,
    admission: Admission,
    slow_queries: SlowQueries,
) -> Beside:
    """The HTTP port over this router, not yet open.

    Raises:
        ConfigError: what it needs isn't installed.
    """
    try:
        # late: a router without the port needs no aiohttp, and doesn't pay for its import
        from router.http.endpoints import Endpoints  # noqa: PLC0415
        from router.http.port import HttpPort  # noqa: PLC0415
    except ModuleNotFoundError as failure:
        raise ConfigError(
            f"http_port needs {failure.name}, which isn't installed; pip install 'shoal[http]'"
        ) from failure
    endpoints = Endpoints(
        answer=answer,
        served=lambda: registry.served,
        n_in_flight=lambda: admission.n_queries,
        slow_queries=slow_queries,
    )
    return HttpPort(config, endpoints)


def source_of(config: RouterConfig) -> DnsSource | LeaseSource:
    """Where this router learns who serves what.

    Raises:
        ConfigError: a file that is missing, or one that nobody would read.
    """
    if config.topology_source == "leases":
        if config.topology is not None:
            raise ConfigError("topology names a file, and topology_source is leases; leave out one")
        return LeaseSource()
    if config.topology is None:
        raise ConfigError(
            "topology is missing: give --topology FILE, or --topology-source leases where the "
            "replicas announce themselves"
        )
    file = FileSource(TopologyFile(config.topology))
    return DnsSource(file, every_s=config.resolve_s)


if __name__ == "__main__":
    run("router", RouterConfig, main)
