"""What answers at a port that other machines can reach: asked as a stranger would ask.

Rule: a door is believed by what it does, not by how it was configured. It is asked nothing that
could be answered with data: a method that doesn't exist, which every closed door refuses first.
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from deploy.doctor.facts.own_processes import OwnProcess
from deploy.doctor.facts.sockets import Listening
from shoal.target import bracketed, host_port

Speech = Literal["grpc", "http", "silent"]

_TIMEOUT_S = 2.0
_UNKNOWN_METHOD = "/shoal.v1.SearchService/Knock"
_CLOSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A listening socket that other machines reach; `asks` is whether it wants a token or a
    certificate of its callers, None where that could not be learnt.
    """

    pid: int
    module: str
    host: str
    port: int
    speaks: Speech
    tls: bool
    asks: bool | None


def knock_at(processes: tuple[OwnProcess, ...]) -> tuple[Door, ...]:
    """Every exposed socket of these processes, asked in turn; some 2 s each where one is silent."""
    return tuple(
        knock(process.pid, process.module, socket)
        for process in processes
        for socket in process.listening or ()
        if socket.exposed
    )


def knock(pid: int, module: str, at: Listening) -> Door:
    """What a stranger meets there."""
    address = (_near(at.host), at.port)
    certificate = _certificate(address)
    speaks = _speech(address) if certificate is None else _speech_in_tls(address)
    asks = None
    if speaks == "grpc":
        asks = _asks_by_grpc(address, certificate)
    elif speaks == "http":
        asks = _asks_by_http(address, tls=certificate is not None)
    return Door(
        pid=pid,
        module=module,
        host=at.host,
        port=at.port,
        speaks=speaks,
        tls=certificate is not None,
        asks=asks,
    )


def _near(host: str) -> str:
    """The address of this machine that stands for all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound


def _certificate(address: tuple[str, int]) -> str | None:
    """The PEM certificate shown; None where it speaks no TLS."""
    try:
        return ssl.get_server_certificate(address, timeout=_TIMEOUT_S)
    except (OSError, ValueError):  # ssl's errors are OSErrors
        return None


def _speech(address: tuple[str, int]) -> Speech:
    with contextlib.suppress(OSError):
        said = _ask_http(address, "GET /", tls=False)
        return "http" if said.startswith("HTTP/1") else "grpc"
    return "silent"


def _speech_in_tls(address: tuple[str, int]) -> Speech:
    """By the version of HTTP that the handshake settles on: gRPC's is 2, a page's 1.1."""
    with contextlib.suppress(OSError), _stream(address, tls=True) as stream:
        settled = stream.selected_alpn_protocol() if isinstance(stream, ssl.SSLSocket) else None
        return "grpc" if settled == "h2" else "http"
    return "grpc"


def _asks_by_http(address: tuple[str, int], *, tls: bool) -> bool | None:
    """By the status of a search for nothing; None where there is no such door, as with metrics."""
    try:
        words = _ask_http(address, "POST /retrieve", tls=tls).split(maxsplit=2)
    except OSError:
        return None
    status = words[1] if len(words) > 1 else ""
    if status in {"401", "403"}:
        return True
    return False if status in {"200", "400", "415", "422"} else None


def _ask_http(address: tuple[str, int], what: str, *, tls: bool) -> str:
    # by its address: a name that it doesn't go by is refused whoever asks, token or not
    host = bracketed(address[0])
    asked = f"{what} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
    with _stream(address, tls=tls) as stream:
        stream.sendall(asked.encode())
        return stream.recv(64).decode("latin-1")


@contextlib.contextmanager
def _stream(address: tuple[str, int], *, tls: bool) -> Iterator[socket.socket]:
    """A connection; in TLS to whoever answers, since nothing secret is said."""
    with socket.create_connection(address, timeout=_TIMEOUT_S) as stream:
        if not tls:
            yield stream
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        with context.wrap_socket(stream) as wrapped:
            yield wrapped


def _asks_by_grpc(address: tuple[str, int], certificate: str | None) -> bool | None:
    target = host_port(*address)
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if certificate is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        options.append(("grpc.ssl_target_name_override", _name_in(address, certificate)))
        trusted = grpc.ssl_channel_credentials(root_certificates=certificate.encode())
        channel = grpc.secure_channel(target, trusted, options=options)
    with channel:
        try:
            knock_once: Any = channel.unary_unary(_UNKNOWN_METHOD)
            knock_once(b"", timeout=_TIMEOUT_S)
        except grpc.RpcError as failure:
            code = failure.code()
            if code in _CLOSED:
                return True
            return False if code is grpc.StatusCode.UNIMPLEMENTED else None
    return False


def _name_in(address: tuple[str, int], certificate: str) -> str:
    """A name that the certificate is for, which gRPC insists on; "" where it has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    try:
        with (
            socket.create_connection(address, timeout=_TIMEOUT_S) as stream,
            context.wrap_socket(stream) as wrapped,
        ):
            shown: Any = wrapped.getpeercert() or {}
    except OSError:
        return ""
    names = [
        str(name) for kind, name in shown.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}
    ]
    return names[0].replace("*", "any", 1) if names else ""
