"""A server's certificate, its key and the authority of its callers, read again when they change.

gRPC asks before each new handshake. Rule: only a whole, matching and valid set replaces the one in
use, so that files caught in the middle of an exchange close no door. Connections that are open
keep the certificate that they were made with.
"""

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from shoal.credentials import read_pem, refuse_password
from shoal.errors import ConfigError

logger = logging.getLogger(__name__)

_CHECK_EVERY_S = 1.0
_N_READS = 3

Signature = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files; `client_ca` makes it mutual TLS: callers need a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def signature(self) -> Signature:
        """What changes when a file does: size, time and inode of each. Raises OSError."""
        paths = (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))
        return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in (p.stat() for p in paths))


def check_certificates(files: CertificateFiles, now: datetime) -> None:
    """Refuses files that no handshake could succeed with.

    Raises:
        ConfigError: a file that can't be read, a key of another certificate, or an expired one.
    """
    read_pem(files.certificate, "the TLS certificate")
    read_pem(files.key, "the TLS key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            files.certificate, files.key, password=refuse_password
        )
    except (ssl.SSLError, ValueError) as failure:
        raise ConfigError(
            f"the TLS certificate {files.certificate} and the key {files.key} do not go together: "
            f"{getattr(failure, 'reason', None) or failure}"
        ) from failure
    if files.client_ca is not None:
        read_pem(files.client_ca, "the TLS client authority")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(files.client_ca)
        except ssl.SSLError as failure:
            raise ConfigError(
                f"the TLS client authority {files.client_ca} holds no certificate"
            ) from failure
    expires = describe_certificate(files).expires
    if expires <= now:
        raise ConfigError(
            f"the TLS certificate {files.certificate} has expired on {expires:%Y-%m-%d %H:%M} UTC"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a certificate says of itself: what servers it is for, and its end, in UTC.

    `names` are its DNS names, then its addresses; of other kinds (URIs, mail) no server is known.
    """

    names: tuple[str, ...]
    expires: datetime

    @property
    def server_name(self) -> str:
        """A name that it is valid for; "" where it has none."""
        return self.names[0].replace("*", "any", 1) if self.names else ""


def describe_certificate(files: CertificateFiles) -> CertificateFacts:
    """Reads the certificate by a handshake with itself, in memory: ssl decodes no other way.

    Raises:
        ConfigError: it is no server's certificate, or not valid now.
    """
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(files.certificate, files.key, password=refuse_password)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(files.certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    certificate = None
    try:
        for side in (client, server, client):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        certificate = client.getpeercert()
    except (ssl.SSLError, ValueError) as failure:
        why = getattr(failure, "verify_message", "") or str(failure)
        raise ConfigError(
            f"the TLS certificate {files.certificate} can't serve: {why}"
        ) from failure
    assert certificate, "a verified certificate is told"
    expires_s = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    pairs: Any = certificate.get("subjectAltName", ())
    names = (str(name) for kind in ("DNS", "IP Address") for of, name in pairs if of == kind)
    return CertificateFacts(names=tuple(names), expires=datetime.fromtimestamp(expires_s, UTC))


class ServerCertificates:
    """The certificate in use; `fetch` is gRPC's question, asked from threads of its own."""

    def __init__(self, files: CertificateFiles) -> None:
        """Reads the files. Raises ConfigError where they can't serve."""
        self._files = files
        self._lock = threading.Lock()
        self._checked_s = time.monotonic()
        self._in_use, self._signature = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is opened with."""
        return grpc.dynamic_ssl_server_credentials(
            self._in_use,
            self.fetch,  # type: ignore[arg-type]  # None means no change, which the stubs forget
            require_client_authentication=self._files.client_ca is not None,
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificate, where the files have changed; looks at most once a second."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._checked_s < _CHECK_EVERY_S:
                return None
            self._checked_s = now_s
            try:
                if self._files.signature() == self._signature:
                    return None
                self._in_use, self._signature = self._read()
            except (ConfigError, OSError) as failure:
                logger.error("the TLS certificate stays as it was: %s", failure)  # noqa: TRY400 -- one line
                return None
            logger.info("took the new TLS certificate %s", self._files.certificate)
            return self._in_use

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, Signature]:
        """What the files hold, and their signature: of one moment, so that what serves is what was
        checked.
        """
        for _ in range(_N_READS):
            signature = _signature_of(self._files)
            configuration = _read_checked(self._files)
            if _signature_of(self._files) == signature:
                return configuration, signature
        raise ConfigError(f"{self._files.certificate} and its key change while they are read")


def _read_checked(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    check_certificates(files, datetime.now(UTC))
    pair = (read_pem(files.key, "the TLS key"), read_pem(files.certificate, "the TLS certificate"))
    ca = read_pem(files.client_ca, "the TLS client authority") if files.client_ca else None
    return grpc.ssl_server_certificate_configuration([pair], ca)


def _signature_of(files: CertificateFiles) -> Signature:
    try:
        return files.signature()
    except OSError as failure:
        raise ConfigError(f"can't read {failure.filename}: {failure.strerror}") from failure
