"""The files that open doors: keys, tokens, certificates; who may read them, and when they end.

Rule: no secret is shown, and none is read but to see that it can serve.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from deploy.doctor.facts.own_processes import OwnProcess
from deploy.doctor.facts.ray_processes import ray_token_file
from deploy.state import ClusterState
from shoal.errors import ShoalError
from shoal.rpc.certificates import CertificateFiles, check_certificates, describe_certificate

Kind = Literal["key", "token", "tokens", "certificate"]

_FLAGS: dict[str, Kind] = {
    "--tls-key": "key",
    "--peer-tls-key": "key",
    "--tokens": "tokens",
    "--internal-token-file": "token",
    "--peer-token-file": "token",
    "--token-file": "token",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """`mode` are its permission bits, less those that a folder above it takes away. `fault` says
    why it can't serve; `expires` is when the certificate, or the next of a tokens file's entries
    to end, does: its `entry`; one that has ended where no other will; None for never.
    """

    path: str
    kind: Kind
    mode: int
    fault: str = ""
    expires: datetime | None = None
    entry: str = ""


def read_secrets(
    state: ClusterState | None,
    processes: Iterable[OwnProcess],
    environment: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> tuple[SecretFile, ...]:
    """Those of the cluster, of Shoal's processes here, of this user's commands and of Ray."""
    paths: dict[Path, Kind] = {}
    pairs: dict[Path, Path] = {}
    for process in processes:
        flags = process.flags if process.is_readable else ()
        given = dict(itertools.pairwise(flags))
        paths |= {Path(given[flag]): kind for flag, kind in _FLAGS.items() if flag in given}
        if "--tls-certificate" in given and "--tls-key" in given:
            pairs[Path(given["--tls-certificate"])] = Path(given["--tls-key"])
    if state is not None and state.tls_certificate and state.tls_key:
        pairs[Path(state.tls_certificate)] = Path(state.tls_key)
        paths[Path(state.tls_key)] = "key"
    for name, kind in (("SHOAL_TOKEN_FILE", "token"), ("SHOAL_TLS_KEY", "key")):
        if environment.get(name):
            paths[Path(environment[name])] = kind  # type: ignore[assignment]
    if ray_token := ray_token_file(environment, home):
        paths[ray_token] = "token"
    found = [read_secret(path, kind) for path, kind in paths.items()]
    return (*found, *(read_certificate(path, key) for path, key in pairs.items()))


def read_secret(path: Path, kind: Kind) -> SecretFile:
    """A key, a token or a tokens file."""
    mode, fault = _mode(path)
    if fault or kind != "tokens":
        return SecretFile(path=str(path), kind=kind, mode=mode, fault=fault)
    from shoal.rpc.tokens import read_tokens  # noqa: PLC0415 -- the bare install reads none

    try:
        grants = read_tokens(path)
    except ShoalError as failure:
        return SecretFile(path=str(path), kind=kind, mode=mode, fault=failure.message)
    ending = [grant for grant in grants if grant.expires_s < float("inf")]
    if not ending:
        return SecretFile(path=str(path), kind=kind, mode=mode)
    # one that has ended must not hide the next
    now_s = datetime.now(UTC).timestamp()
    first = min(ending, key=lambda grant: (grant.expires_s <= now_s, grant.expires_s))
    expires = datetime.fromtimestamp(first.expires_s, UTC)
    return SecretFile(path=str(path), kind=kind, mode=mode, expires=expires, entry=first.name)


def read_certificate(path: Path, key: Path) -> SecretFile:
    """A server's certificate, with its key."""
    mode, fault = _mode(path)
    files = CertificateFiles(certificate=path, key=key)
    expires = None
    try:
        check_certificates(files, datetime.now(UTC))
        expires = describe_certificate(files).expires
    except (ShoalError, OSError) as failure:
        fault = fault or getattr(failure, "message", str(failure))
    return SecretFile(path=str(path), kind="certificate", mode=mode, fault=fault, expires=expires)


def _mode(path: Path) -> tuple[int, str]:
    try:
        at = path.resolve(strict=True)
        mode = stat.S_IMODE(at.stat().st_mode)
        above = [folder.stat().st_mode for folder in at.parents]
    except OSError as failure:
        return 0, f"{path} can't be looked at: {failure.strerror}"
    # who may not pass a folder reaches nothing in it
    for may_pass, bits in ((stat.S_IXGRP, stat.S_IRWXG), (stat.S_IXOTH, stat.S_IRWXO)):
        if not all(folder & may_pass for folder in above):
            mode &= ~bits
    return mode, ""
