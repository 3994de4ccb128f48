"""What a local cluster's processes and its own user know each other by.

A cluster with TLS or tokens gets a random token of its own at each start. It lies in the state
folder, readable by the operator's user alone, and travels as the file's path: never on a command
line, in an environment or a log.
"""

import os
from pathlib import Path

from deploy.state import ClusterState
from shoal.credentials import Credentials, Tls, read_token
from shoal.errors import ConfigError, StorageError


def write_internal_token(path: Path) -> None:
    """Puts a new token at `path`, with mode 0600.

    Raises:
        StorageError: it can't be written.
    """
    from shoal.rpc.tokens import new_token  # noqa: PLC0415 -- the bare install reads none

    write_token(path, new_token())


def write_token(path: Path, token: str) -> None:
    """Puts `token` at `path`, with mode 0600.

    Raises:
        StorageError: it can't be written.
    """
    try:
        path.unlink(missing_ok=True)
        # made anew, and by nobody else: a file that was there may be open elsewhere
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(token + "\n")
    except OSError as failure:
        raise StorageError(f"can't write {path}: {failure.strerror}") from failure


def local_credentials(state: ClusterState) -> Credentials:
    """What this user's commands reach the cluster with: its certificate, and its own token.

    Neither where the cluster has none; no token where this user may not read it.
    """
    tls = None
    if state.tls_certificate:
        certificate = Path(state.tls_certificate)
        ca = Path(state.tls_ca) if state.tls_ca else certificate
        tls = Tls(ca=ca, server_name=_server_name(certificate, Path(state.tls_key)))
    token = ""
    if state.internal_token:
        try:
            token = read_token(Path(state.internal_token))
        except ConfigError:
            token = ""
    return Credentials(tls=tls, token=token)


def _server_name(certificate: Path, key: Path) -> str:
    """A name in the certificate as it is now; "" where it can't be read: connecting tells why."""
    from shoal.rpc import certificates  # noqa: PLC0415 -- commands start sooner without

    files = certificates.CertificateFiles(certificate=certificate, key=key)
    try:
        return certificates.describe_certificate(files).server_name
    except (ConfigError, OSError, ValueError):  # ssl's errors are OSErrors
        return ""
