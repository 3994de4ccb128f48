"""A bare grpc.aio server that answers every request with bytes of one size: the floor of a hop.

`python -m bench.echo --reply-bytes N` serves it and prints its port.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from shoal.rpc.channel import open_channel

_METHOD = "/bench.Echo/Answer"


async def _serve(reply: bytes) -> None:
    async def answer(request: bytes, context: Any) -> bytes:  # noqa: ARG001 -- gRPC's signature
        return reply

    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Echo", {"Answer": handler}),)
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def echo_server(reply_bytes: int) -> Iterator[str]:
    """Serves in a process of its own; yields host:port."""
    command = [sys.executable, "-m", "bench.echo", "--reply-bytes", str(reply_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def calls_per_s(target: str, request: bytes, *, clients: int, duration_s: float) -> float:
    """Calls that `clients` closed-loop clients get answered a second, over four connections."""
    return asyncio.run(_drive(target, request, clients=clients, duration_s=duration_s))


async def _drive(target: str, request: bytes, *, clients: int, duration_s: float) -> float:
    channels = [open_channel(target) for _ in range(4)]
    calls: list[Any] = [channel.unary_unary(_METHOD) for channel in channels]
    n_done = 0
    begun_s = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal n_done
        call = calls[number % len(calls)]
        while time.perf_counter() - begun_s < duration_s:
            await call(request)
            n_done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    took_s = time.perf_counter() - begun_s
    for channel in channels:
        await channel.close()
    return n_done / took_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--reply-bytes", type=int, required=True)
    asyncio.run(_serve(b"x" * parser.parse_args().reply_bytes))
