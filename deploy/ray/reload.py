"""`shoal reload` of a cluster on Ray: every router moves, then the version is pinned.

Order: the first router alone, whose move loads the version on every shard; then the others at once,
who find it loaded. Where one refuses, or the version can't be pinned, those that moved go back. No
router closes the old version before the new one is pinned; where this command is killed, those that
moved go back by themselves.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from deploy.ray.application import applied_configs
from deploy.ray.connection import connected, serve_client
from deploy.ray.gpu_share import refuse_too_large
from deploy.ray.members import pin_version, roll_of
from deploy.reload import Reloaded, checked_manifest
from deploy.state import ClusterState, paths_of, write_state
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import ShoalError, UnavailableError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.channel import open_sync_channel
from shoal.rpc.status import error_of

if TYPE_CHECKING:
    from shoal.formats.manifest import Manifest

_PIN_PATIENCE_S = 20.0
"""How long the directory is asked to pin: Serve starts it again in a few seconds."""
_PIN_AGAIN_S = 0.5
_BACK_S = 30.0
"""What a router's way back may take; the old version is open still."""


def reload_cluster(
    state: ClusterState,
    version: int | None,
    timeout_s: float,
    credentials: Credentials = NO_CREDENTIALS,
) -> Reloaded:
    """Moves the cluster to `version`, None being the live one; returns when it is pinned.

    Raises:
        ConfigError: the folder or URL holds another index by now.
        FailedPreconditionError: its shards need more of a GPU than was reserved.
        IndexFormatError: there is no such version, or its manifest doesn't verify.
        UnavailableError: Ray or the cluster's directory doesn't answer, or a router that had moved
            does not go back.
        ShoalError: a router's refusal; the old version serves on everywhere.
    """
    manifest = checked_manifest(state, version)
    begun_s = time.monotonic()
    with connected(state.ray_address):
        roll = roll_of(state.name)
        if not roll.told.routers or not roll.version:
            raise UnavailableError(f"cluster {state.name!r} has no router; see 'shoal status'")
        _check_gpus(state.name, manifest)
        until_s = begun_s + timeout_s
        move_all(
            roll.told.routers, manifest.name, roll.version, manifest.version, credentials, until_s,
            pin=lambda: persistently(lambda: pin_version(state.name, manifest.version)),
        )  # fmt: skip
    write_state(paths_of(state.name), replace(state, version=manifest.version))
    return Reloaded(
        index=manifest.name,
        old=roll.version,
        version=manifest.version,
        n_passages=manifest.n_live,
        seconds=round(time.monotonic() - begun_s, 3),
    )


def _check_gpus(name: str, manifest: "Manifest") -> None:
    client = serve_client()
    if config := applied_configs(client).get(name):
        deployed = client.get_serve_details()["applications"][name]["deployments"]
        refuse_too_large(manifest, config, deployed)


def move_all(
    routers: Sequence[str], index: str, old: int, new: int, credentials: Credentials,
    until_s: float, *, pin: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Moves every router from version `old` to `new` and has that pinned, or moves none.

    Raises:
        UnavailableError: the version could not be pinned, or a router that had moved did not go
            back.
        ShoalError: the first refusal, after those that had moved were moved back.
    """
    moved: list[str] = []

    def move(router: str) -> ShoalError | None:
        failure = _reload(router, index, new, credentials, until_s - time.monotonic())
        if failure is None:
            moved.append(router)
        return failure

    def back(router: str) -> ShoalError | None:
        return _reload(router, index, old, credentials, _BACK_S)

    try:
        first, *others = routers
        failures = [move(first)]
        if failures == [None]:
            failures += _each(move, others)
        _raise_first(failures)
        pin()
    except BaseException as reason:
        stuck = [r for r, f in zip(moved, _each(back, moved), strict=True) if f is not None]
        if stuck and isinstance(reason, ShoalError):
            raise UnavailableError(
                f"{reason.message}; not back at version {old} yet: {', '.join(stuck)}, which go "
                "back by themselves within a minute"
            ) from reason
        raise


def persistently(pin: Callable[[], object], patience_s: float = _PIN_PATIENCE_S) -> None:
    """Pins; asks again where the directory is just being started again.

    Raises:
        UnavailableError: it didn't answer in all that time.
    """
    until_s = time.monotonic() + patience_s
    while True:
        try:
            pin()
        except UnavailableError:
            if time.monotonic() > until_s:
                raise
        else:
            return
        time.sleep(_PIN_AGAIN_S)


def _raise_first(failures: Sequence[ShoalError | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


def _each(
    move: Callable[[str], ShoalError | None], routers: Sequence[str]
) -> list[ShoalError | None]:
    """Moves them all at once."""
    if not routers:
        return []
    with ThreadPoolExecutor(max_workers=len(routers)) as pool:
        return list(pool.map(move, routers))


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
