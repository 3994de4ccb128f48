"""One way to run a gRPC process: start, become healthy, serve, drain, stop.

The address is bound before the work of starting begins, so that a launcher learns the port at
once; health turns SERVING when `start` has returned, and NOT_SERVING before the server stops
taking calls. Knows nothing of what is served.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from shoal.config import ProcessConfig, load_config, refuse_exposed
from shoal.errors import ShoalError
from shoal.garbage import collect_new_alone, collect_seldom
from shoal.parent import die_with_parent
from shoal.rpc.access import AccessFiles, Guard
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.rpc.listening import Beside, announce, bound, certificates_of, withdraw
from shoal.rpc.logs import start_logging
from shoal.rpc.metrics import tell_build
from shoal.tracing.collector import Collector
from shoal.tracing.export import SpanSender
from shoal.tracing.tracer import Tracer

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=ProcessConfig)


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
    beside: Beside | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains within `config.grace_s` seconds.

    Args:
        config: address, limits, and where to announce the address.
        services: what to serve.
        start: what must be done before health says SERVING; a ShoalError from it ends the process.
        stop: what must be done after the last call.
        beside: what else listens, for as long as the server does.

    Raises:
        ConfigError: an address that others can reach, without `insecure`; TLS or tokens files
            that can't be used; a collector of traces without OpenTelemetry's packages.
        StorageError: the port is taken.
    """
    refuse_exposed(config)
    certificates = certificates_of(config)
    stopping = asyncio.Event()
    async with _prepared(config, stopping) as tracer:
        interceptor = ShoalInterceptor(guard_of(config), tracer)
        if config.parent_pid is not None:  # a killed launcher leaves nothing
            die_with_parent(config.parent_pid, signal.SIGTERM)
        server = grpc.aio.server(interceptors=(interceptor,), options=server_options())
        health = await _add(services, server)
        listening = await bound(server, config, certificates, beside, tracer)
        await server.start()
        try:
            announce(config, listening, serving=False)
            if await _unless_stopped(start(), stopping):
                collect_new_alone()
                for name in ("", *(service.full_name for service in services)):
                    await health.set(name, health_pb2.HealthCheckResponse.SERVING)
                announce(config, listening, serving=True)
                logger.info("serving on %s", listening.address)
                await stopping.wait()
                await health.enter_graceful_shutdown()
        finally:
            if beside is None:
                await server.stop(config.grace_s)
            else:
                await asyncio.gather(server.stop(config.grace_s), beside.close())
            if stop is not None:
                await stop()
            withdraw(config)


def run(
    prog: str, model: type[Config], main: Callable[[Config], Coroutine[Any, Any, None]]
) -> None:
    """Runs a process: its configuration from `sys.argv`, then `main` with it.

    A ShoalError is one line on stderr and its exit code.
    """
    collect_seldom()  # until it serves
    try:
        config = load_config(model, prog, sys.argv[1:])
        tell_build(prog)
        start_logging(prog, level=config.log_level, form=config.log_format, stream=sys.stderr)
        uvloop.run(main(config))
    except ShoalError as error:
        sys.stderr.write(f"{prog}: error: {error.message}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.asynccontextmanager
async def _prepared(config: ProcessConfig, stopping: asyncio.Event) -> AsyncIterator[Tracer | None]:
    """Signals set `stopping`; the tracer, None without a collector, whose last spans go at the end.

    Raises:
        ConfigError: as `SpanSender`.
    """
    with _signals(stopping):
        if config.traces_otlp is None:
            yield None
            return
        sender = SpanSender(Collector(address=config.traces_otlp, ca=config.traces_ca), config.role)
        try:
            yield Tracer(sender.send, share=config.traced_share)
        finally:
            await asyncio.to_thread(sender.close)


def guard_of(config: ProcessConfig) -> Guard | None:
    """Who judges callers; None where neither file is given: then no call pays for it."""
    if config.tokens is None and config.internal_token_file is None:
        return None
    return Guard(AccessFiles(tokens=config.tokens, internal_token=config.internal_token_file))


async def _add(services: Sequence[Service], server: grpc.aio.Server) -> HealthServicer:
    """Adds them, reflection, and health, which says NOT_SERVING of each and of all together."""
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [service.full_name for service in services]
    for service in services:
        service.add(server)
    for name in ("", *names):
        await health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection([*names, health_name, reflection.SERVICE_NAME], server)
    return health


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
