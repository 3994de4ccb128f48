"""One way to run a gRPC process: start, become healthy, serve, drain, stop.

The address is bound before the work of starting begins, so that a launcher learns the port at
once; health turns SERVING when `start` has returned, and NOT_SERVING before the server stops
taking calls. Knows nothing of what is served.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from shoal.config import ProcessConfig, load_config, refuse_exposed
from shoal.errors import ShoalError, StorageError
from shoal.json_file import write_json
from shoal.rpc.channel import MAX_MESSAGE_BYTES, MAX_REPLY_BYTES
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.metrics import start_metrics_page

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=ProcessConfig)

_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_REPLY_BYTES),
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not a second listener
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 4_096),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A gRPC service to serve: its full name, and how to add it to a server."""

    full_name: str
    add: Callable[[grpc.aio.Server], None]


async def serve(
    config: ProcessConfig,
    services: Sequence[Service],
    *,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains within `config.grace_s` seconds.

    Args:
        config: address, limits, and where to announce the address.
        services: what to serve.
        start: what must be done before health says SERVING; a ShoalError from it ends the process.
        stop: what must be done after the last call.

    Raises:
        ConfigError: an address that others can reach, without `insecure`.
        StorageError: the port is taken.
    """
    refuse_exposed(config)
    stopping = asyncio.Event()
    with _signals(stopping):
        _die_with_parent(config.parent_pid)
        server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=_SERVER_OPTIONS)
        health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names = [service.full_name for service in services]
        for service in services:
            service.add(server)
            await health.set(service.full_name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        reflection.enable_server_reflection(
            [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
             reflection.SERVICE_NAME], server)  # fmt: skip
        try:
            address = _bind(server, config)
        except ShoalError:
            # a gRPC server that was made and never ran leaves a thread that outlives the
            # interpreter and writes of it on stderr
            await server.start()
            await server.stop(None)
            raise
        await server.start()
        try:
            _announce(config, address)
            if await _unless_stopped(start(), stopping):
                for name in ("", *names):
                    await health.set(name, health_pb2.HealthCheckResponse.SERVING)
                logger.info("serving on %s", address)
                await stopping.wait()
                await health.enter_graceful_shutdown()
        finally:
            await server.stop(config.grace_s)
            if stop is not None:
                await stop()
            if config.address_file is not None:
                with contextlib.suppress(OSError):  # nobody reads it where it can't be removed
                    config.address_file.unlink()


def run(
    prog: str, model: type[Config], main: Callable[[Config], Coroutine[Any, Any, None]]
) -> None:
    """Runs a process: its configuration from `sys.argv`, then `main` with it.

    A ShoalError is one line on stderr and its exit code.
    """
    try:
        config = load_config(model, prog, sys.argv[1:])
        logging.basicConfig(
            level=config.log_level.upper(),
            format=f"%(asctime)s %(levelname)s {prog} %(name)s: %(message)s",
            stream=sys.stderr,
        )
        uvloop.run(main(config))
    except ShoalError as error:
        sys.stderr.write(f"{prog}: error: {error.message}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _bind(server: grpc.aio.Server, config: ProcessConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    wanted = f"{host}:{config.port}"
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as failure:
        raise StorageError(
            f"can't listen on {wanted}: it is taken or not an address of this machine; "
            "choose another --port (0 takes any that is free)"
        ) from failure
    if config.metrics_port is not None:
        try:
            start_metrics_page(config.host, config.metrics_port)
        except OSError as failure:
            raise StorageError(
                f"can't serve metrics on {host}:{config.metrics_port}: {failure.strerror}; "
                "choose another --metrics-port"
            ) from failure
    return f"{host}:{port}"


def _announce(config: ProcessConfig, address: str) -> None:
    if config.address_file is not None:
        write_json(config.address_file, {"address": address, "pid": os.getpid()})


async def _unless_stopped(work: Awaitable[None], stopping: asyncio.Event) -> bool:
    """Awaits `work`; returns False, with the work cancelled, where a signal came first."""
    starting = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if starting.done():
        await starting
        return not stopping.is_set()
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    return False


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


_PR_SET_PDEATHSIG = 1


def _die_with_parent(parent_pid: int | None) -> None:
    """Asks the kernel for SIGTERM when the parent dies, so that a killed launcher leaves nothing.

    The parent may have died before the question was asked: that is seen by its pid.
    """
    if parent_pid is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)
