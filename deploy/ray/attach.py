"""`shoal attach --on ray`: what this machine must know of a cluster that another one started.

Rule: it asks and changes nothing but this machine's state file. All of it is in the Serve config
that was applied, in the directory and in the routers; the index isn't read, which may not be here.
"""

from deploy.ray.application import applied_configs, is_ours
from deploy.ray.connection import connected, serve_client, serve_statuses
from deploy.ray.launch import refuse_local, remember
from deploy.ray.members import Roll, roll_of, topology_at
from deploy.ray.options import RayOptions, ray_options
from deploy.state import ClusterState
from shoal.errors import NotFoundError, UnavailableError


def attach(name: str, ray_address: str | None) -> ClusterState:
    """Remembers the running cluster `name`, so that every command finds it.

    Raises:
        LockedError: a local cluster has the name.
        NotFoundError: the Ray cluster has no such cluster of Shoal's; with those that it has.
        UnavailableError: no Ray cluster answers, or the cluster is not ready.
    """
    refuse_local(name)
    with connected(ray_address) as gcs:
        # asked first: Serve's client would start Serve
        configs = applied_configs(serve_client()) if serve_statuses() else {}
        ours = sorted(known for known, config in configs.items() if is_ours(config))
        if name not in ours:
            there = f"it has {', '.join(ours)}" if ours else "it has none"
            raise NotFoundError(f"no cluster {name!r} of Shoal's on Ray at {gcs}; {there}")
        options = ray_options({**configs[name]["args"], "name": name})
        roll = roll_of(name)
        return remember(options, _served_index(options, roll), gcs, roll)


def _served_index(options: RayOptions, roll: Roll) -> str:
    """The name of the index, by any router that answers."""
    why = "it has no router yet"
    for router in roll.told.routers:
        topology = topology_at(router, options.credentials(roll.told.token))
        if isinstance(topology, str):
            why = f"router {router} does not answer: {topology}"
        elif topology.indexes:
            return str(topology.indexes[0].index)
        else:
            why = f"router {router} serves no index yet"
    raise UnavailableError(f"cluster {options.name!r} is not ready: {why}")
