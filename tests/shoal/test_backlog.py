"""Calls that wait in gRPC's own queue while the event loop is busy."""

import asyncio
import collections
import threading

import grpc

from shoal.rpc.limits import server_options

N_PATIENT, N_GONE = 60, 60


async def test_who_left_costs_nothing_and_who_waits_is_answered():
    """Fault 38: nobody ages out of the queue as a bare CANCELLED, so there is need of no limit."""
    n_handled: collections.Counter[bytes] = collections.Counter()
    address: asyncio.Queue[str] = asyncio.Queue()
    here, ended = asyncio.get_running_loop(), threading.Event()
    is_blocked, go_on = threading.Event(), threading.Event()

    async def handle(request, _context):
        n_handled[request] += 1
        if request == b"block":
            is_blocked.set()
            go_on.wait(100)  # the whole loop, as work that doesn't yield
        return b""

    async def serve():
        server = grpc.aio.server(options=server_options())
        method = grpc.unary_unary_rpc_method_handler(handle)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", {"m": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        here.call_soon_threadsafe(address.put_nowait, f"127.0.0.1:{port}")
        await asyncio.to_thread(ended.wait)
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        async with grpc.aio.insecure_channel(await address.get()) as channel:
            method = channel.unary_unary("/t/m")

            async def ask(request, timeout_s, metadata=()):
                try:
                    await method(request, timeout=timeout_s, metadata=metadata)
                except grpc.aio.AioRpcError as failure:
                    return failure.code().name
                return "OK"

            blocking = asyncio.create_task(ask(b"block", 60))
            await asyncio.to_thread(is_blocked.wait)
            gone = [asyncio.create_task(ask(b"gone", 0.3)) for _ in range(N_GONE)]
            patient = [asyncio.create_task(ask(b"patient", 60)) for _ in range(N_PATIENT)]
            assert set(await asyncio.gather(*gone)) == {"DEADLINE_EXCEEDED"}
            # refused by gRPC itself, which reads a connection in order: it knows who has left
            assert await ask(b"", 60, (("large", "x" * (1 << 15)),)) == "RESOURCE_EXHAUSTED"
            go_on.set()
            assert set(await asyncio.gather(blocking, *patient)) == {"OK"}
    finally:
        go_on.set()
        ended.set()
        await asyncio.to_thread(thread.join)
    assert n_handled[b"patient"] == N_PATIENT
    # the last one may have been handed over just before the loop was blocked
    assert n_handled[b"gone"] <= 1
    ages = dict(server_options())
    assert ages["grpc.server_max_unrequested_time_in_server"] >= 600
