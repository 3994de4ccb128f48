"""Starts one router: `python -m router --topology FILE --port 50051`."""

import random

from router.admin import AdminServicer
from router.admission import Admission
from router.config import RouterConfig
from router.registry import Registry
from router.reload import Reloader
from router.search import Searcher
from router.service import SearchServicer
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.server import Service, run, serve
from shoal.v1 import search_pb2, search_pb2_grpc


async def main(config: RouterConfig) -> None:
    """Serves until told to stop."""
    _ = config.peer_credentials  # read now: a fault in them ends the start
    admission = Admission(config.max_queries, wait_s=config.max_wait_s)
    async with Registry(config, n_active=lambda: admission.n_queries) as registry:
        searches = SearchServicer(registry, Searcher(random.Random(), config), admission)
        reloader = Reloader(registry, release_after_s=config.release_after_s)
        admin = AdminServicer(registry, reloader)
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
        await serve(config, services, start=registry.ready)


if __name__ == "__main__":
    run("router", RouterConfig, main)
