"""Where a process listens: the gRPC port, the Prometheus page, what else listens, and the file that
tells of all three.

Rule: an address that can't be had ends the start, with the flag to change in its words. Knows
nothing of what is served.
"""

import contextlib
import os
from dataclasses import dataclass
from typing import Protocol

import grpc

from shoal.config import ProcessConfig
from shoal.errors import ShoalError, StorageError
from shoal.json_file import write_json
from shoal.rpc.certificates import CertificateFiles, ServerCertificates
from shoal.rpc.metrics import start_metrics_page
from shoal.target import bracketed
from shoal.tracing.tracer import Tracer


class Beside(Protocol):
    """Another listener of the process, such as the router's HTTP port."""

    async def open(self, tracer: Tracer | None) -> str:
        """Listens, and returns its URL; `tracer` is the process's. Raises ShoalError."""
        ...

    async def close(self) -> None:
        """Takes nothing more; returns when it has drained, or its grace is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The server's address, its Prometheus page's, and the URL of what listens beside it; "" for
    what there isn't.
    """

    address: str
    page: str
    url: str


def certificates_of(config: ProcessConfig) -> ServerCertificates | None:
    """What the server shows its callers; None where it speaks plaintext.

    Raises:
        ConfigError: the files can't be used.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    files = CertificateFiles(
        certificate=config.tls_certificate, key=config.tls_key, client_ca=config.tls_client_ca
    )
    return ServerCertificates(files)


async def bound(
    server: grpc.aio.Server,
    config: ProcessConfig,
    certificates: ServerCertificates | None,
    beside: Beside | None,
    tracer: Tracer | None,
) -> Listening:
    """Where everything listens. Ends the server where something can't.

    Raises:
        StorageError: a port is taken.
        ShoalError: as `beside.open`.
    """
    try:
        return Listening(
            address=_bind(server, config, certificates),
            page=_page(config),
            url=await beside.open(tracer) if beside else "",
        )
    except ShoalError:
        # a gRPC server that was made and never ran leaves a thread that outlives the interpreter
        # and writes of it on stderr
        await server.start()
        await server.stop(None)
        raise


def announce(config: ProcessConfig, listening: Listening, *, serving: bool) -> None:
    """Writes the file that launchers read, where one is wanted."""
    if config.address_file is not None:
        told = {
            "address": listening.address,
            "metrics": listening.page,
            "http": listening.url,
            "pid": os.getpid(),
            "serving": serving,
        }
        write_json(config.address_file, told)


def withdraw(config: ProcessConfig) -> None:
    """Removes that file."""
    if config.address_file is not None:
        with contextlib.suppress(OSError):  # nobody reads it where it can't be removed
            config.address_file.unlink()


def _bind(
    server: grpc.aio.Server, config: ProcessConfig, certificates: ServerCertificates | None
) -> str:
    host = bracketed(config.host)
    wanted = f"{host}:{config.port}"
    try:
        if certificates is None:
            port = server.add_insecure_port(wanted)
        else:
            port = server.add_secure_port(wanted, certificates.credentials())
    except RuntimeError as failure:
        raise StorageError(
            f"can't listen on {wanted}: it is taken or not an address of this machine; "
            "choose another --port (0 takes any that is free)"
        ) from failure
    return f"{host}:{port}"


def _page(config: ProcessConfig) -> str:
    if config.metrics_port is None:
        return ""
    host = config.metrics_host or config.host
    try:
        port = start_metrics_page(host, config.metrics_port)
    except OSError as failure:
        raise StorageError(
            f"can't serve metrics on {bracketed(host)}:{config.metrics_port}: "
            f"{failure.strerror}; choose another --metrics-port"
        ) from failure
    return f"{bracketed(host)}:{port}"
