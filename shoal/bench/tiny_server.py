"""`python -m shoal.bench.tiny_server`: a SearchService that answers nothing, after a given time.

What the self-check measures: its behaviour is known, so the figures must be. It writes its port,
and when it is told to end, which query's answer it gave when, on `time.monotonic()`.
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from shoal.parent import die_with_parent
from shoal.v1 import search_pb2 as pb

_ANSWER = pb.SearchResponse(results=[pb.QueryResult()], coverage=1.0).SerializeToString()


async def _main(delay_s: float) -> None:
    answered_s: dict[str, float] = {}
    is_over = asyncio.Event()

    async def search(request: bytes, context: Any) -> bytes:  # noqa: ARG001 -- gRPC's signature
        if delay_s:
            await asyncio.sleep(delay_s)
        answered_s[pb.SearchRequest.FromString(request).queries[0].text] = time.monotonic()
        return _ANSWER

    service = pb.DESCRIPTOR.services_by_name["SearchService"].full_name
    handlers: Any = {"Search": grpc.unary_unary_rpc_method_handler(search)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    health = HealthServicer()
    await health.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    _write(port)
    await is_over.wait()
    await server.stop(0)
    _write(answered_s)


def _write(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    die_with_parent(os.getppid(), signal.SIGKILL)
    asyncio.run(_main(float(sys.argv[1])))
