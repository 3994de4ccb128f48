"""Moves a running local cluster to another version of its index, through its router."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from deploy.index_place import IndexPlace
from deploy.state import ClusterState, read_state
from shoal.attempts import Attempts
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import ConfigError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.channel import open_sync_channel
from shoal.rpc.status import error_of

if TYPE_CHECKING:
    from shoal.formats.manifest import Manifest

_FOLLOW_TIMEOUT_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """A move that is done; `old` is `version` where there was nothing to do."""

    index: str
    old: int
    version: int
    n_passages: int
    seconds: float


def reload_cluster(
    state: ClusterState,
    version: int | None,
    timeout_s: float,
    credentials: Credentials = NO_CREDENTIALS,
) -> Reloaded:
    """Moves the cluster to `version`, None being the live one; returns when searches use it.

    Raises:
        ConfigError: the folder or URL holds another index by now.
        IndexFormatError: there is no such version, or its manifest doesn't verify.
        ShoalError: the router's refusal; the old version serves on.
    """
    manifest = checked_manifest(state, version)
    begun_s = time.monotonic()
    request = admin_pb2.ReloadIndexRequest(index=manifest.name, version=manifest.version)
    attempt = Attempts(state.target, timeout_s, None, credentials)
    with open_sync_channel(state.target, credentials) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            reply = stub.ReloadIndex(request, timeout=timeout_s, metadata=credentials.metadata)
        except grpc.RpcError as failure:
            # raises where the handshake is what failed, in words that name the flag to give
            attempt.unready(failure, attempt.probe() if attempt.needs_probe(failure) else "")
            raise error_of(failure) from failure
    took_s = time.monotonic() - begun_s
    _until_followed(state.name, reply.version)
    return Reloaded(
        index=manifest.name,
        old=state.version,
        version=reply.version,
        n_passages=manifest.n_live,
        seconds=round(took_s, 3),
    )


def checked_manifest(state: ClusterState, version: int | None) -> "Manifest":
    """The manifest to move to, None being the live version's.

    Raises:
        ConfigError: the folder or URL holds another index by now.
        IndexFormatError: there is no such version, or its manifest doesn't verify.
    """
    place = IndexPlace(folder=Path(state.index_dir), url=state.index_url)
    manifest = place.manifest(version)
    if manifest.name != state.index:
        raise ConfigError(
            f"{place} holds index {manifest.name!r} now; the cluster serves "
            f"{state.index!r}: end it and start another"
        )
    return manifest


def _until_followed(name: str, version: int) -> None:
    """Waits for the launcher, so that what is asked next agrees; it follows by itself."""
    until_s = time.monotonic() + _FOLLOW_TIMEOUT_S
    while time.monotonic() < until_s:
        state = read_state(name)
        if state is None or state.version == version:
            return
        time.sleep(_POLL_S)
