"""TLS for the HTTP port, from the router's own files, read again when they change.

Rule: as for gRPC: only a whole, matching and valid set replaces the one in use.
"""

import logging
import ssl
import time
from datetime import UTC, datetime

from shoal.credentials import refuse_password
from shoal.errors import ConfigError
from shoal.rpc.certificates import CertificateFiles, check_certificates

logger = logging.getLogger(__name__)

_CHECK_EVERY_S = 1.0


class HttpCertificates:
    """The certificate in use. Handshakes ask for it one after the other, on the event loop."""

    def __init__(self, files: CertificateFiles) -> None:
        """Reads the files. Raises ConfigError where they can't serve."""
        self._files = files
        self._checked_s = time.monotonic()
        self._signature = self._read_signature()
        self._in_use = _context(files)

    def context(self) -> ssl.SSLContext:
        """What a port is opened with; each handshake on it gets the certificate in use."""
        listening = _context(self._files)
        listening.sni_callback = self._on_hello
        return listening

    def _on_hello(self, connection: ssl.SSLObject, _name: str | None, _of: ssl.SSLContext) -> None:
        self._look()
        connection.context = self._in_use

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s < _CHECK_EVERY_S:
            return
        self._checked_s = now_s
        try:
            signature = self._read_signature()
            if signature == self._signature:
                return
            self._in_use = _context(self._files)
            self._signature = signature
        except ConfigError as failure:
            logger.error("the HTTP port's certificate stays: %s", failure)  # noqa: TRY400 -- one line
            return
        logger.info("the HTTP port took the new TLS certificate %s", self._files.certificate)

    def _read_signature(self) -> tuple[tuple[int, int, int], ...]:
        try:
            return self._files.signature()
        except OSError as failure:
            raise ConfigError(f"can't read {failure.filename}: {failure.strerror}") from failure


def _context(files: CertificateFiles) -> ssl.SSLContext:
    check_certificates(files, datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # a session resumed would show the certificate of its first handshake
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(files.certificate, files.key, password=refuse_password)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
