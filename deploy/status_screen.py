"""A cluster's status as one screen: what it says, whoever runs the cluster. Pure; draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.load import ProcessLoad
from deploy.status import ClusterStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One process. `says` is what routers say of it; `part` is what it is one of: "shard 0"."""

    part: str
    process: str
    pid: int
    address: str
    health: str
    is_well: bool
    n_restarts: int
    versions: tuple[int, ...]
    load: ProcessLoad | None
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of a Ray cluster, with what it has of each resource, "" for nothing."""

    address: str
    n_processes: int
    cpus: str
    gpus: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Everything that one look shows; `notes` are what somebody should read."""

    heading: str
    facts: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    is_well: bool
    nodes: tuple[Node, ...] = ()
    notes: tuple[str, ...] = ()


def local_screen(report: ClusterStatus) -> Screen:
    """The screen of a cluster on this machine."""
    lines = tuple(
        Line(
            part=_part(process.name, process.role),
            process=process.name,
            pid=process.pid,
            address=process.address,
            health=process.health,
            is_well=process.healthy,
            n_restarts=process.n_restarts,
            versions=process.versions,
            load=process.load,
            says=f"{process.router_view} {process.detail}".strip(),
        )
        for process in report.processes
    )
    return Screen(
        heading=f"cluster {report.name!r}: {report.phase}, launcher pid {report.pid}",
        facts=facts_of(
            index=report.index,
            version=report.version,
            target=report.target,
            coverage=report.coverage,
            lines=lines,
            http=report.http,
        ),
        lines=lines,
        is_well=report.healthy,
    )


def facts_of(
    *,
    index: str,
    version: int,
    target: str,
    coverage: float,
    lines: Sequence[Line],
    http: str = "",
) -> tuple[tuple[str, str], ...]:
    """What stands above the processes; the load is what the routers let in."""
    routers = [line.load for line in lines if line.part == "router" and line.load]
    qps = sum(load.qps for load in routers)
    facts = [
        ("index", f"{index!r} version {version or 'unknown'}"),
        ("target", target or "none yet"),
        ("coverage", f"{coverage:.2%}" if version else "unknown"),
    ]
    if http:
        facts.insert(2, ("console", f"{http}/"))
    if routers:
        in_flight = sum(load.in_flight for load in routers)
        refused = sum(load.refused_per_s for load in routers)
        told = f"{qps:,.0f} queries/s, {in_flight:,} in flight"
        facts.append(("load", f"{told}, {refused:,.0f}/s refused" if refused else told))
    if measured := [load for load in routers if load.n_recalls]:
        best = max(measured, key=lambda load: load.n_recalls)  # routers measure each their own
        interval = f"{best.recall_low:.3f} to {best.recall_high:.3f}"
        facts.append(("recall", f"{best.recall:.3f} ({interval}), {best.n_recalls:,} live queries"))
    elif any(load.is_exact for load in routers):
        facts.append(("recall", "exact: the index is searched whole"))
    return tuple(facts)


def _part(name: str, role: str) -> str:
    if role != "shard":
        return role
    number = name.removeprefix("shard-")
    return "shard " + number[: len(number) - len(number.lstrip("0123456789"))]


HEADERS = (
    "process", "pid", "address", "health", "restarts", "versions", "in flight", "queued", "qps",
    "router says",
)  # fmt: skip


def cells(line: Line) -> tuple[object, ...]:
    """One process as a row under HEADERS."""
    load = line.load
    loads = (load.in_flight, load.queued, f"{load.qps:,.0f}") if load else ("-", "-", "-")
    versions = ", ".join(map(str, line.versions))
    return (
        line.process, line.pid or "-", line.address, line.health, line.n_restarts, versions, *loads,
        line.says,
    )  # fmt: skip
