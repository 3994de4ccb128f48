"""Why replicas wait for a node: told when they have waited, and again where that changes. Pure.

Rule: Ray's autoscaler may bring nodes, so waiting is no failure; silence would be one. Time is an
argument. Must not know Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploy.ray.processes import DeploymentPlan
from deploy.ray.room import Resources, missing_for

PATIENCE_S = 5.0
"""Seconds that Ray gets to find room before a line says that there is none."""
AGAIN_S = 30.0
"""Seconds between two lines: on a shared cluster the figures change all the time."""


def missing_room(
    plans: Sequence[DeploymentPlan],
    nodes_of: Mapping[str, Sequence[str | None]],
    free: Mapping[str, Resources],
    port: int,
) -> str:
    """What the nodes lack for the replicas that have none, in words; "" where they hold them.

    Args:
        plans: the deployments.
        nodes_of: by deployment, the node of each replica that Serve has; None waits for one.
        free: by node, what it has left.
        port: the routers', which one of them a node can have; 0 is any.
    """
    left = {node: dict(has) for node, has in free.items()}
    asked = []
    for plan in plans:
        nodes = nodes_of.get(plan.part.name, ())
        each = {"CPU": plan.num_cpus, "GPU": plan.num_gpus}
        if plan.one_a_node:
            place = f"port {port}"
            each[place] = 1.0
            for node, has in left.items():
                has[place] = 0.0 if node in nodes else 1.0
        needs = {what: amount for what, amount in each.items() if amount}
        asked.append((plan.part.name, sum(node is None for node in nodes), needs))
    return missing_for([entry for entry in asked if entry[1]], list(left.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Since when something is missing (None: nothing is), what it is, and what was told when."""

    since_s: float | None = None
    missing: str = ""
    told: str = ""
    told_s: float = float("-inf")

    def seen(self, missing: str, now_s: float) -> tuple["Waiting", str]:
        """After this look, and a line to tell; "" where there is none."""
        if not missing:
            return replace(self, since_s=None, missing=""), ""
        since_s = now_s if self.since_s is None else self.since_s
        later = replace(self, since_s=since_s, missing=missing)
        if now_s - since_s < PATIENCE_S or missing == self.told or now_s - self.told_s < AGAIN_S:
            return later, ""
        line = f"waiting for room: {missing}; add nodes, or reserve less"
        return replace(later, told=missing, told_s=now_s), line
