"""The router's HTTP port: opened with the process, drained with it, on the same event loop.

Only a router that was told `--http-port` imports this, and aiohttp.
"""

import asyncio
import contextlib
import logging

from aiohttp import web

from router.config import RouterConfig, refuse_exposed_http
from router.http.app import application
from router.http.certificates import HttpCertificates
from router.http.endpoints import Endpoints
from router.http.visitors import Doorkeeper, own_names
from shoal.errors import StorageError
from shoal.rpc.certificates import CertificateFiles
from shoal.rpc.server import guard_of
from shoal.target import bracketed
from shoal.tracing.tracer import Tracer

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
"""More are refused at once: each costs a file and some 50 KiB."""
IDLE_S = 30.0
"""In which a connection must have sent a request whole but for its body."""
LINGER_S = 10.0
"""For which a body is read on after its answer: hanging up at once could lose the answer."""
_BACKLOG = 128
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: 77\r\n\r\n"
    b'{"error": {"code": "RESOURCE_EXHAUSTED", "message": "too many connections"}}\n'
)


class HttpPort:
    """What listens; `open` it once, and `close` it."""

    def __init__(self, config: RouterConfig, endpoints: Endpoints) -> None:
        assert config.http_port is not None, "nobody asked for it"
        self._config = config
        self._port: int = config.http_port
        self._endpoints = endpoints
        self._server: asyncio.AbstractServer | None = None
        self._runner: web.AppRunner | None = None

    async def open(self, tracer: Tracer | None = None) -> str:
        """Listens, and returns its URL; searches are traced where `tracer` says.

        Raises:
            ConfigError: others reach the address and the door stands open; TLS or tokens files
                that can't be used.
            StorageError: the port is taken.
        """
        config = self._config
        refuse_exposed_http(config)
        scheme, tls = "http", None
        if config.tls_certificate and config.tls_key:
            files = CertificateFiles(
                certificate=config.tls_certificate,
                key=config.tls_key,
                client_ca=config.tls_client_ca,
            )
            scheme, tls = "https", HttpCertificates(files).context()
        doorkeeper = Doorkeeper(
            guard=guard_of(config),
            scheme=scheme,
            names=own_names(config.http_host, config.http_names),
        )
        runner = web.AppRunner(
            application(self._endpoints, doorkeeper, tracer),
            handle_signals=False,
            access_log=None,
            keepalive_timeout=IDLE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # a few bytes must not become gigabytes
            handler_cancellation=True,  # a caller that left wants no answer
            shutdown_timeout=config.grace_s,
        )
        await runner.setup()
        self._runner = runner
        host = bracketed(config.http_host)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._protocol, config.http_host, self._port, ssl=tls, backlog=_BACKLOG
            )
        except OSError as failure:
            await self._forget()
            raise StorageError(
                f"can't serve HTTP on {host}:{self._port}: {failure.strerror or failure}; choose "
                "another --http-port (0 takes any that is free)"
            ) from failure
        port = self._server.sockets[0].getsockname()[1]
        url = f"{scheme}://{host}:{port}"
        logger.info("the console is at %s", url)
        return url

    async def close(self) -> None:
        """Takes no more connections, and ends when requests under way are answered, or at the end
        of their grace.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._forget()

    async def _forget(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server if self._runner else None
        if server is None or len(server.connections) >= MAX_CONNECTIONS:
            return _Full()
        return server()


class _Full(asyncio.Protocol):
    """Says that there is no room, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        with contextlib.suppress(OSError):
            transport.write(_FULL)
        transport.close()
