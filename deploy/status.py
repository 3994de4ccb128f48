"""How a cluster on this machine does: its processes, their health, and what its router sees."""

import asyncio
import time
from dataclasses import dataclass

import grpc

from deploy.child import is_serving
from deploy.load import Looks, ProcessLoad, page_of
from deploy.state import ClusterState, ProcessState, paths_of, start_time
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc.channel import open_channel

_TIMEOUT_S = 2.0
_RATE_S = 0.2
"""The least time between two looks at a counter that a rate is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process. `health` is "SERVING", "NOT_SERVING" (it lives) or "DOWN".

    `versions` are the index versions that a shard server has open, as the router knows them;
    `router_view` is the router's opinion of the replica: "HEALTHY", "CONNECTING", "EJECTED" or "".
    `load` is None where the process tells none; `metrics` is its Prometheus page, host:port or "".
    """

    name: str
    role: str
    pid: int
    address: str
    health: str
    n_restarts: int
    versions: tuple[int, ...]
    router_view: str
    detail: str
    log: str
    metrics: str = ""
    load: ProcessLoad | None = None

    @property
    def healthy(self) -> bool:
        """Whether it serves; the router must use it as well, but for the router itself."""
        used = self.role == "router" or self.router_view == "HEALTHY"
        return self.health == "SERVING" and used


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """A cluster; `version` is the one that the router's searches use, 0 where it doesn't answer.

    `coverage` is the share of the live passages that a search reaches now, 0.0 where nobody knows;
    `http` the URL of the router's HTTP port, "" where it has none.
    """

    name: str
    phase: str
    pid: int
    target: str
    index_dir: str
    index: str
    version: int
    processes: tuple[ProcessStatus, ...]
    coverage: float = 0.0
    http: str = ""

    @property
    def healthy(self) -> bool:
        """Whether everything that should serve does, and the router uses it."""
        return self.phase == "ready" and all(p.healthy for p in self.processes)


async def cluster_status(
    state: ClusterState, credentials: Credentials = NO_CREDENTIALS, looks: Looks | None = None
) -> ClusterStatus:
    """Asks every process for its health and load and the router for its topology, 2 s each at most.

    Args:
        state: which cluster.
        credentials: to show its router.
        looks: what was seen of it before; without it, this waits for 0.2 s between two looks.
    """
    looks = looks or Looks()
    pages = [_page(state.name, process) for process in state.processes]
    begun_s = time.monotonic()
    if is_first := looks.first:
        await looks.loads(pages)
    asked = asyncio.gather(*(_health(process, credentials) for process in state.processes))
    topology = await _topology(state.target, credentials)
    healths = await asked
    if is_first:
        await asyncio.sleep(max(0.0, begun_s + _RATE_S - time.monotonic()))
    loads = await looks.loads(pages)
    views = router_views(topology)
    versions = [index.version for index in topology.indexes if index.index == state.index]
    return ClusterStatus(
        name=state.name,
        phase=state.phase if state.alive else "dead",
        pid=state.pid,
        target=state.target,
        index_dir=state.index_dir,
        index=state.index,
        version=versions[0] if versions else 0,
        processes=tuple(
            _process_status(process, health, views.get(process.address), page, loads.get(page))
            for process, health, page in zip(state.processes, healths, pages, strict=True)
        ),
        coverage=coverage_of(topology, state.index),
        http=state.http,
    )


def coverage_of(topology: admin_pb2.GetTopologyResponse, index: str) -> float:
    """The share of the index's live passages that a healthy replica of their shard holds. Pure."""
    shards = [shard for told in topology.indexes if told.index == index for shard in told.shards]
    n_live = sum(shard.n_live for shard in shards)
    if not shards or not any(replica.versions for shard in shards for replica in shard.replicas):
        return 0.0
    if not n_live:
        return 1.0
    there = [
        shard.n_live
        for shard in shards
        if any(r.state == admin_pb2.REPLICA_STATE_HEALTHY for r in shard.replicas)
    ]
    return float(sum(there)) / n_live


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """What a router thinks of a replica: its state's name, the versions it has open, and why."""

    state: str
    versions: tuple[int, ...]
    detail: str


def _page(name: str, process: ProcessState) -> str:
    return page_of(paths_of(name).address(process.name), process.pid)


def _process_status(
    process: ProcessState,
    health: str,
    view: RouterView | None,
    page: str,
    load: ProcessLoad | None,
) -> ProcessStatus:
    return ProcessStatus(
        name=process.name,
        role=process.role,
        pid=process.pid,
        address=process.address,
        health=health,
        n_restarts=process.n_restarts,
        versions=view.versions if view else (),
        router_view=view.state if view else "",
        detail=view.detail if view else "",
        log=process.log,
        metrics=page,
        load=load,
    )


def router_views(topology: admin_pb2.GetTopologyResponse) -> dict[str, RouterView]:
    """What a router thinks of each replica, by address. Pure."""
    views = {
        encoder.address: RouterView(
            state=_state_name(encoder.state), versions=(), detail=encoder.detail
        )
        for encoder in topology.encoders
    }
    for index in topology.indexes:
        for shard in index.shards:
            for replica in shard.replicas:
                views[replica.address] = RouterView(
                    state=_state_name(replica.state),
                    versions=tuple(replica.versions),
                    detail=replica.detail,
                )
    return views


def _state_name(state: int) -> str:
    value = admin_pb2.ReplicaState.DESCRIPTOR.values_by_number.get(state)
    return value.name.removeprefix("REPLICA_STATE_") if value else "UNSPECIFIED"


async def _topology(target: str, credentials: Credentials) -> admin_pb2.GetTopologyResponse:
    if not target:
        return admin_pb2.GetTopologyResponse()
    async with open_channel(target, credentials) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return await stub.GetTopology(
                admin_pb2.GetTopologyRequest(), timeout=_TIMEOUT_S, metadata=credentials.metadata
            )
        except grpc.RpcError:
            return admin_pb2.GetTopologyResponse()


async def _health(process: ProcessState, credentials: Credentials) -> str:
    if not process.pid or start_time(process.pid) != process.started:
        return "DOWN"
    if not process.address:
        return "NOT_SERVING"
    # a launcher's shards and encoder are on loopback, and health needs no token
    shown = credentials if process.role == "router" else NO_CREDENTIALS
    async with open_channel(process.address, shown) as channel:
        return "SERVING" if await is_serving(channel, _TIMEOUT_S) else "NOT_SERVING"
