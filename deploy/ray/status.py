"""Who runs where in a cluster on Ray: by its directory, by Serve, and by each router."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.load import ProcessLoad
from deploy.ray.connection import connected, free_resources, live_nodes, serve_statuses
from deploy.ray.members import Roll, roll_of, topology_at
from deploy.ray.registry import Member, Told
from deploy.state import ClusterState
from deploy.status import coverage_of
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import UnavailableError
from shoal.internal.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica; `router_views` is what each router that answers says of it, in turn.

    A router has none, or why it didn't answer. `metrics` is its Prometheus page, host:port or "".
    """

    replica: str
    deployment: str
    role: str
    node: str
    host: str
    address: str
    pid: int
    phase: str
    n_restarts: int
    router_views: tuple[str, ...]
    versions: tuple[int, ...]
    log: str
    load: ProcessLoad | None = None
    metrics: str = ""

    @property
    def healthy(self) -> bool:
        """Whether it serves, and every router uses it."""
        return self.phase == "serving" and all(view == "HEALTHY" for view in self.router_views)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """One deployment by Serve; `n_wanted` counts the replicas that it has, in any state."""

    name: str
    status: str
    n_running: int
    n_wanted: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A live node of the Ray cluster; resources by Ray's names, free ones among them."""

    node: str
    host: str
    n_replicas: int
    resources: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayClusterStatus:
    """A cluster; `version` is the pinned one, 0 where the directory doesn't answer.

    `coverage` is the least that any router reaches, 0.0 where none answers.
    """

    name: str
    application: str
    ray_address: str
    target: str
    index: str
    version: int
    replicas: tuple[ReplicaStatus, ...]
    deployments: tuple[DeploymentStatus, ...]
    nodes: tuple[NodeStatus, ...] = ()
    coverage: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether Serve runs all, all serve, and every router answers, uses and reaches them."""
        return (
            self.application == "RUNNING"
            and bool(self.replicas)
            and self.coverage >= 1.0
            and all(replica.healthy for replica in self.replicas)
        )


def cluster_status(
    state: ClusterState, credentials: Credentials = NO_CREDENTIALS
) -> RayClusterStatus:
    """Asks Serve, the directory and the routers, 5 s each at most.

    Raises:
        UnavailableError: no Ray cluster answers.
    """
    with connected(state.ray_address):
        return connected_status(state, credentials)


def connected_status(state: ClusterState, credentials: Credentials) -> RayClusterStatus:
    """As `cluster_status`, by a connection that is there."""
    status = serve_statuses().get(state.name)
    try:
        roll = roll_of(state.name) if status is not None else Roll(members=(), told=Told())
    except UnavailableError:
        roll = Roll(members=(), told=Told())
    with ThreadPoolExecutor(max_workers=8) as pool:
        told = list(pool.map(lambda router: topology_at(router, credentials), roll.told.routers))
    topologies = dict(zip(roll.told.routers, told, strict=True))
    return RayClusterStatus(
        name=state.name,
        application=str(status.status.value) if status is not None else "NOT_RUNNING",
        ray_address=state.ray_address,
        target=roll.target or state.target,
        index=state.index,
        version=roll.version,
        replicas=tuple(replica_status(member, topologies) for member in roll.members),
        deployments=_deployments(status),
        nodes=_nodes(roll.members),
        coverage=least_coverage(list(topologies.values()), state.index),
    )


def least_coverage(topologies: Sequence[pb.GetTopologyResponse | str], index: str) -> float:
    """The least share of the index that a router which answers reaches; 0.0 without any. Pure."""
    told = [topology for topology in topologies if not isinstance(topology, str)]
    return min((coverage_of(topology, index) for topology in told), default=0.0)


def replica_status(
    member: Member, topologies: Mapping[str, pb.GetTopologyResponse | str]
) -> ReplicaStatus:
    """A member, with what the routers say of it. Pure.

    `topologies` are by router's address; a text is why that one didn't answer.
    """
    answers = [topology for topology in topologies.values() if not isinstance(topology, str)]
    views = [_view(member, topology) for topology in answers]
    silence = topologies.get(member.address)
    own = (silence,) if isinstance(silence, str) else ()
    versions = {v for _, opened in views for v in opened}
    return ReplicaStatus(
        replica=member.replica,
        deployment=member.part.name,
        role=member.part.role,
        node=member.node,
        host=member.host,
        address=member.address,
        pid=member.pid,
        phase=member.phase,
        n_restarts=member.n_restarts,
        router_views=own if member.part.role == "router" else tuple(view for view, _ in views),
        versions=tuple(sorted(versions)),
        log=member.log,
        load=member.load,
        metrics=member.metrics,
    )


def _nodes(members: Sequence[Member]) -> tuple[NodeStatus, ...]:
    free = free_resources()
    return tuple(
        NodeStatus(
            node=node,
            host=host,
            n_replicas=sum(member.node == node for member in members),
            resources=resources,
            free=free.get(node, {}),
        )
        for node, host, resources in live_nodes()
    )


def _view(member: Member, topology: pb.GetTopologyResponse) -> tuple[str, tuple[int, ...]]:
    for encoder in topology.encoders:
        if encoder.address == member.address:
            return _state_name(encoder.state), ()
    for index in topology.indexes:
        for shard in index.shards:
            for replica in shard.replicas:
                if replica.address == member.address:
                    return _state_name(replica.state), tuple(replica.versions)
    return "UNKNOWN", ()


def _state_name(state: int) -> str:
    value = pb.ReplicaState.DESCRIPTOR.values_by_number.get(state)
    return value.name.removeprefix("REPLICA_STATE_") if value else "UNSPECIFIED"


def _deployments(status: "ApplicationStatusOverview | None") -> tuple[DeploymentStatus, ...]:
    if status is None:
        return ()
    return tuple(
        DeploymentStatus(
            name=name,
            status=str(told.status.value),
            n_running=_n_running(told.replica_states),
            n_wanted=sum(told.replica_states.values()),
            message=" ".join(told.message.split())[:200],
        )
        for name, told in sorted(status.deployments.items())
    )


def _n_running(states: Mapping[Any, int]) -> int:
    return sum(count for state, count in states.items() if state == "RUNNING")
