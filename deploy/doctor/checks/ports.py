"""Whether what should answer does, and whether the default port is free. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.cluster import ClusterFacts
from deploy.doctor.facts.record import DEFAULT_PORT, Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning
from deploy.status import ClusterStatus


def default_port(facts: Facts) -> Iterator[Finding]:
    """The router's default port, held by something that is no router."""
    held = [s for s in facts.listening if s.port == DEFAULT_PORT]
    if not facts.listening and not held:
        return
    name = "default-port"
    routers = {s.port for p in facts.own if p.module == "router" for s in p.listening or ()}
    if not held:
        yield ok(name, f"port {DEFAULT_PORT}, the router's default, is free")
    elif DEFAULT_PORT in routers:
        yield ok(name, f"port {DEFAULT_PORT} is a router's")
    else:
        pid = facts.default_port_pid
        who = f"pid {pid}" if pid else "another user's process"
        yield note(
            name,
            f"port {DEFAULT_PORT}, the router's default, is taken by {who}",
            "give 'shoal up' another --port",
        )


def cluster_processes(facts: Facts) -> Iterator[Finding]:
    """A cluster that isn't there, or a process of it that doesn't answer."""
    name = "cluster-processes"
    if facts.missing_cluster:
        yield fault(
            name,
            f"no cluster {facts.missing_cluster!r} is known here",
            "start it with 'shoal up --index DIR', or find it with 'shoal attach'",
        )
    cluster = facts.cluster
    if cluster is None:
        return
    if not cluster.running:
        yield fault(
            name,
            f"cluster {cluster.name!r} is remembered, but its launcher is gone",
            f"start it again with 'shoal up'; 'shoal down --name {cluster.name}' forgets it",
        )
        return
    if cluster.status is not None:
        yield from _processes(name, cluster.status)


def _processes(name: str, status: ClusterStatus) -> Iterator[Finding]:
    if status.phase != "ready":
        yield warning(name, f"cluster {status.name!r} is {status.phase}", "wait, and look again")
    for process in status.processes:
        who = f"{process.name} (pid {process.pid}) at {process.address or 'no address yet'}"
        see = f"see its log, {process.log}"
        if process.health == "DOWN":
            yield fault(name, f"{who} is not running", see)
        elif process.health != "SERVING":
            yield fault(name, f"{who} does not say that it serves", see)
        elif process.metrics and process.load is None:
            yield note(name, f"{who} serves, but its page of metrics at {process.metrics} doesn't")
        if process.n_restarts:
            times = "once" if process.n_restarts == 1 else f"{process.n_restarts} times"
            yield note(name, f"{who} was started again {times}", see)
    if status.phase == "ready" and all(p.health == "SERVING" for p in status.processes):
        yield ok(name, f"{len(status.processes)} processes of {status.name!r} answer")


def router_view(facts: Facts) -> Iterator[Finding]:
    """A router that can't be asked, or that leaves shards or encoders out."""
    cluster = facts.cluster
    if cluster is None or not cluster.running:
        return
    name = "router-view"
    if cluster.router_why:
        yield fault(
            name,
            f"the router at {cluster.target or 'no address yet'} tells no topology: "
            f"{cluster.router_why}",
            "see that it runs, and that the token given has the scope admin "
            "(--token-file, --tls-ca)",
        )
        return
    for replica in cluster.replicas:
        if replica.state != "HEALTHY":
            because = f": {replica.detail}" if replica.detail else ""
            yield warning(
                name,
                f"the router does not use {replica.part} at {replica.address}, which is "
                f"{replica.state}{because}",
                "see that process's log, and that the router's machine reaches its port",
            )
    yield from _coverage(cluster, facts)


def _coverage(cluster: ClusterFacts, facts: Facts) -> Iterator[Finding]:
    name = "router-view"
    index = facts.index
    if index is not None and cluster.version == index.live and cluster.n_shards != index.n_shards:
        yield fault(
            name,
            f"the router knows {cluster.n_shards} shards, and version {index.live} of the index "
            f"has {index.n_shards}",
            "start the cluster again: 'shoal down', then 'shoal up'",
        )
    if not cluster.n_shards:
        yield fault(name, "the router serves no index", "see its topology file, or its log")
    elif cluster.coverage < 1.0:
        yield fault(
            name,
            f"a search reaches {cluster.coverage:.2%} of the passages",
            "bring back a replica of each shard: see 'shoal status'",
        )
    else:
        yield ok(
            name,
            f"index {cluster.index!r} version {cluster.version}: {cluster.n_shards} shards, all "
            "of the passages are reached",
        )
