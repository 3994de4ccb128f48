"""The status screen of a cluster on Ray: nodes, replicas, and what Serve says of both. Pure."""

from collections import Counter
from collections.abc import Sequence

from deploy.ray.spread import shared_nodes
from deploy.ray.status import DeploymentStatus, NodeStatus, RayClusterStatus, ReplicaStatus
from deploy.status_screen import Line, Node, Screen, facts_of

_HEALTH = {"serving": "SERVING", "starting": "STARTING", "leaving": "LEAVING"}


def ray_screen(report: RayClusterStatus) -> Screen:
    """The screen of a cluster on Ray."""
    lines = tuple(_line(replica) for replica in report.replicas)
    return Screen(
        heading=f"cluster {report.name!r} on Ray at {report.ray_address}: {report.application}",
        facts=facts_of(
            index=report.index,
            version=report.version,
            target=report.target,
            coverage=report.coverage,
            lines=lines,
        ),
        lines=lines,
        is_well=report.healthy,
        nodes=tuple(_node(node) for node in report.nodes),
        notes=(*_notes(report.deployments), *_shared_nodes(report)),
    )


def _line(replica: ReplicaStatus) -> Line:
    part = replica.role if replica.role != "shard" else replica.deployment.replace("-", " ")
    return Line(
        part=part,
        process=f"{replica.deployment}.{replica.replica}",
        pid=replica.pid,
        address=replica.address or replica.host,
        health=_HEALTH[replica.phase],
        is_well=replica.healthy,
        n_restarts=replica.n_restarts,
        versions=replica.versions,
        load=replica.load,
        says=_views(replica.router_views),
    )


def _views(views: Sequence[str]) -> str:
    """What routers say, counted where they agree: "HEALTHY x2"."""
    counts = Counter(views)
    return ", ".join(f"{view} x{n}" if n > 1 else view for view, n in counts.items())


def _node(node: NodeStatus) -> Node:
    def used_of(what: str) -> str:
        total = node.resources.get(what, 0.0)
        return f"{total - node.free.get(what, 0.0):g} of {total:g}" if total else ""

    return Node(
        address=node.host, n_processes=node.n_replicas, cpus=used_of("CPU"), gpus=used_of("GPU")
    )


def _shared_nodes(report: RayClusterStatus) -> list[str]:
    placed = [(replica.deployment, replica.node) for replica in report.replicas]
    told = shared_nodes(placed, len(report.nodes))
    return [told] if told else []


def _notes(deployments: Sequence[DeploymentStatus]) -> list[str]:
    return [
        f"{told.name}: {told.n_running} of {told.n_wanted} running {told.message}".rstrip()
        for told in deployments
        if told.n_running < told.n_wanted
    ]
