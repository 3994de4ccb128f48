"""A running cluster, asked: its processes, its router's topology, each replica's release.

Rule: what doesn't answer is a fact, not a failure; only a cluster that was named and isn't known is
told by `running` being False. Every question has 2 s.
"""

import asyncio
from dataclasses import dataclass, replace

import grpc

from deploy.access import local_credentials
from deploy.doctor.facts.replicas import Replica, ask_replica
from deploy.state import ClusterState, paths_of
from deploy.status import ClusterStatus, cluster_status, coverage_of
from shoal.credentials import NO_CREDENTIALS, Credentials, read_token
from shoal.errors import ConfigError, ShoalError
from shoal.formats.remote_url import redacted
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of

_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """`name` is "" for a cluster known by its router's address alone.

    `status` is of its processes on this machine, None for a cluster elsewhere; `router_why` says
    why the router told no topology. `index_dir` is its index's folder or URL, "" where unknown.
    """

    name: str
    target: str
    running: bool
    on: str = ""
    status: ClusterStatus | None = None
    router_release: str = ""
    router_why: str = ""
    index: str = ""
    version: int = 0
    n_shards: int = 0
    coverage: float = 0.0
    replicas: tuple[Replica, ...] = ()
    index_dir: str = ""


def read_cluster(state: ClusterState, shown: Credentials) -> ClusterFacts:
    """The cluster that this machine remembers. `shown` is what its router is shown."""
    if not state.alive:
        return ClusterFacts(name=state.name, target=state.target, running=False, on=state.on)
    return asyncio.run(_known(state, shown))


def read_target(target: str, shown: Credentials) -> ClusterFacts:
    """The cluster behind a router's address."""
    return asyncio.run(_facts(ClusterFacts(name="", target=target, running=True), "", shown, shown))


def inner_credentials(state: ClusterState) -> Credentials:
    """What this user shows the processes behind the router.

    A local cluster's are on loopback, in plaintext, and know its own token; Ray's have the router's
    certificate.
    """
    if state.on == "ray":
        return local_credentials(state)
    try:
        return Credentials(token=read_token(paths_of(state.name).internal_token))
    except ConfigError:
        return NO_CREDENTIALS


async def _known(state: ClusterState, shown: Credentials) -> ClusterFacts:
    status = await cluster_status(state, shown) if state.on == "local" else None
    begun = ClusterFacts(
        name=state.name,
        target=state.target,
        running=True,
        on=state.on,
        status=status,
        index_dir=redacted(state.index_url) if state.index_url else state.index_dir,
    )
    return await _facts(begun, state.index, shown, inner_credentials(state))


async def _facts(
    begun: ClusterFacts, index: str, shown: Credentials, inner: Credentials
) -> ClusterFacts:
    try:
        topology = await _topology(begun.target, shown)
    except ShoalError as failure:
        return replace(begun, router_why=failure.message, index=index)
    told = next((t for t in topology.indexes if not index or t.index == index), None)
    asked = [
        ask_replica(f"shard {shard.shard}", replica, inner)
        for shard in (told.shards if told else ())
        for replica in shard.replicas
    ]
    asked += [ask_replica("encoder", encoder, inner) for encoder in topology.encoders]
    return replace(
        begun,
        router_release=topology.release,
        index=told.index if told else index,
        version=told.version if told else 0,
        n_shards=len(told.shards) if told else 0,
        coverage=coverage_of(topology, told.index) if told else 0.0,
        replicas=tuple(await asyncio.gather(*asked)),
    )


async def _topology(target: str, shown: Credentials) -> admin_pb2.GetTopologyResponse:
    async with open_channel(target, shown) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return await stub.GetTopology(
                admin_pb2.GetTopologyRequest(), timeout=_TIMEOUT_S, metadata=shown.metadata
            )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
