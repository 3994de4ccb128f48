"""Why a connection could not be made, in words that name the setting to change.

gRPC's own message tells most faults of a handshake, and `handshake_fault` reads it. Where a server
just hangs up, which a restart does too, or where the last of a name's addresses hides what the
others said, only a second look can tell: `probe` makes one connection of its own with Python's
ssl, and says nothing where it learns nothing.
"""

import contextlib
import socket
import ssl

from shoal.credentials import Tls, refuse_password
from shoal.rpc.deadline import Deadline
from shoal.target import hosts_of

TLS_HANDSHAKE = "TLS_HANDSHAKE"
"""The reason (`ShoalError.reason`) of an UNAVAILABLE that a handshake ended in."""
PROBE_TIMEOUT_S = 1.0
_UNMADE = ("failed to connect", "connections to all backends failing")
_MISMATCH = frozenset((62, 64))
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

_FAULTS = (
    (
        "WRONG_VERSION_NUMBER",
        "the server speaks plaintext and this client TLS; leave out tls, or serve TLS there",
    ),
    ("certificate has expired", "the server's certificate has expired; it needs a new one"),
    (
        "certificate is not yet valid",
        "the server's certificate is not yet valid; compare the clocks",
    ),
)
_SPEAKS_TLS = "the server speaks TLS and this client does not; give it tls (--tls-ca)"
_HANGS_UP = (
    "the server hangs up after the TLS handshake; most likely it asks for a client certificate, "
    "and {}: give tls with one that its tls_client_ca signed (--tls-certificate, --tls-key)"
)


def handshake_fault(told: str, target: str, tls: Tls | None) -> str:
    """What gRPC's message `told` says of a handshake; empty where it says nothing of one."""
    for sign, fault in _FAULTS:
        if sign in told:
            return fault
    if "Hostname Verification Check failed" in told:
        name = (tls.server_name if tls else "") or host_of(target) or target
        return (
            f"the server's certificate is not for {name!r}; connect by a name that it carries, or "
            "give that as server_name"
        )
    if "CERTIFICATE_VERIFY_FAILED" in told:
        why = told.partition("CERTIFICATE_VERIFY_FAILED")[2].strip(": ").partition(":")[0]
        whom = f"the authority in {tls.ca}" if tls and tls.ca else "an authority of this machine"
        return f"the server's certificate is not signed by {whom} ({why}); give the right ca"
    if "handshake failed" in told.lower():
        return "the TLS handshake failed: " + " ".join(told.rpartition("error:")[2].split())[:200]
    return ""


def is_unmade(told: str) -> bool:
    """Whether gRPC's message `told` is of a connection that could not be made."""
    return told.startswith(_UNMADE)


def host_of(target: str) -> str:
    """The one host that a target names; "" where it names none, or several."""
    hosts = hosts_of(target)
    return next(iter(hosts)) if len(hosts) == 1 else ""


def probe(target: str, tls: Tls | None, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """What one more connection shows; empty where that is nothing, as for a list of addresses.

    Blocks for `timeout_s` in all, and for the resolver, which can't be told a time. Sends no token
    and no request. A plaintext caller's probe trusts any certificate: it only learns that there is
    one.
    """
    host = host_of(target)
    if not host or "," in target:
        return ""
    deadline = Deadline.after(timeout_s)
    with contextlib.suppress(OSError), _connect(host, target, deadline) as plain:
        if tls is None:
            return _speaks_tls(plain, deadline)
        return _refuses_tls(plain, tls, target, deadline)
    return ""


def _connect(host: str, target: str, deadline: Deadline) -> socket.socket:
    port, last = int(target.rpartition(":")[2]), OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        plain = socket.socket(family, kind, protocol)
        try:
            _wait_at_most(plain, deadline)
            plain.connect(address)
        except OSError as failure:
            plain.close()
            last = failure
        else:
            return plain
    raise last


def _wait_at_most(connection: socket.socket, deadline: Deadline) -> None:
    """Before each step: it gets what is left. Raises TimeoutError where that is nothing."""
    left_s = deadline.remaining_s()
    if not left_s:
        raise TimeoutError  # 0 would mean not to wait, and to fail otherwise
    connection.settimeout(left_s)


def _speaks_tls(plain: socket.socket, deadline: Deadline) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _wait_at_most(plain, deadline)
    try:
        with context.wrap_socket(plain):
            return _SPEAKS_TLS
    except ssl.SSLError as failure:
        # an alert comes from a TLS server too
        return _SPEAKS_TLS if "ALERT" in (failure.reason or "") else ""


def _refuses_tls(plain: socket.socket, tls: Tls, target: str, deadline: Deadline) -> str:
    context = ssl.create_default_context(cafile=tls.ca)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    context.set_alpn_protocols(["h2"])
    if tls.certificate and tls.key:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=refuse_password)
        except ValueError as failure:
            return f"this client's {tls.key} can't be used: {failure}"
    _wait_at_most(plain, deadline)
    try:
        name = tls.server_name or host_of(target)
        with context.wrap_socket(plain, server_hostname=name) as secured:
            _wait_at_most(secured, deadline)
            # in TLS 1.3 the server judges the caller's certificate after the handshake; one that
            # takes it begins with its SETTINGS
            if secured.recv(1):
                return ""
    except ssl.SSLCertVerificationError as failure:
        told = f"CERTIFICATE_VERIFY_FAILED: {failure.verify_message}"
        if failure.verify_code in _MISMATCH:
            told = "Hostname Verification Check failed"
        return handshake_fault(told, target, tls)
    except ssl.SSLError as failure:
        if "ALERT" not in (failure.reason or ""):
            return handshake_fault(failure.reason or "", target, tls)
    except ConnectionResetError:
        pass
    return _HANGS_UP.format(
        "does not take this client's" if tls.certificate else "this client has none"
    )
