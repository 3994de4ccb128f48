"""A scripted router behind a real server in this process."""

import contextlib
from collections.abc import AsyncIterator

import grpc

from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2_grpc


@contextlib.asynccontextmanager
async def serving_search(servicer: search_pb2_grpc.SearchServiceServicer) -> AsyncIterator[str]:
    """Serves it on a free port of loopback; yields its target. What it lacks is UNIMPLEMENTED."""
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
