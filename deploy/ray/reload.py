"""`shoal reload` of a cluster on Ray: every router moves, then the version is pinned.

Order: the first router alone, whose move loads the version on every shard; then the others at once,
who find it loaded. Where one refuses, those that moved go back, and nothing is pinned.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc

from deploy.ray.connection import connected
from deploy.ray.members import pin_version, roll_of
from deploy.reload import Reloaded, checked_manifest
from deploy.state import ClusterState, paths_of, write_state
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import ShoalError, UnavailableError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.channel import open_sync_channel
from shoal.rpc.status import error_of


def reload_cluster(
    state: ClusterState,
    version: int | None,
    timeout_s: float,
    credentials: Credentials = NO_CREDENTIALS,
) -> Reloaded:
    """Moves the cluster to `version`, None being the live one; returns when it is pinned.

    Raises:
        ConfigError: the folder or URL holds another index by now.
        IndexFormatError: there is no such version, or its manifest doesn't verify.
        UnavailableError: Ray or the cluster's directory doesn't answer.
        ShoalError: a router's refusal; the old version serves on everywhere.
    """
    manifest = checked_manifest(state, version)
    begun_s = time.monotonic()
    with connected(state.ray_address):
        roll = roll_of(state.name)
        if not roll.told.routers or not roll.version:
            raise UnavailableError(f"cluster {state.name!r} has no router; see 'shoal status'")
        until_s = begun_s + timeout_s
        move_all(roll.told.routers, manifest.name, roll.version, manifest.version, credentials,
                 until_s)  # fmt: skip
        pin_version(state.name, manifest.version)
    write_state(paths_of(state.name), replace(state, version=manifest.version))
    return Reloaded(
        index=manifest.name,
        old=roll.version,
        version=manifest.version,
        n_passages=manifest.n_live,
        seconds=round(time.monotonic() - begun_s, 3),
    )


def move_all(
    routers: Sequence[str], index: str, old: int, new: int, credentials: Credentials, until_s: float
) -> None:
    """Moves every router from version `old` to `new`, or none.

    Raises:
        ShoalError: the first refusal, after those that had moved were moved back.
    """

    def move(router: str, version: int) -> ShoalError | None:
        return _reload(router, index, version, credentials, until_s - time.monotonic())

    first, *others = routers
    failure = move(first, new)
    moved = [] if failure else [first]
    if failure is None and others:
        with ThreadPoolExecutor(max_workers=len(others)) as pool:
            failures = list(pool.map(lambda router: move(router, new), others))
        moved += [r for r, f in zip(others, failures, strict=True) if f is None]
        failure = next((f for f in failures if f is not None), None)
    if failure is None:
        return
    for router in moved:
        move(router, old)
    raise failure


def _reload(
    router: str, index: str, version: int, credentials: Credentials, timeout_s: float
) -> ShoalError | None:
    request = admin_pb2.ReloadIndexRequest(index=index, version=version)
    with open_sync_channel(router, credentials) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            stub.ReloadIndex(request, timeout=max(0.1, timeout_s), metadata=credentials.metadata)
        except grpc.RpcError as failure:
            return error_of(failure)
    return None
