"""How many encoders a cluster gets, and what each asks of it. Pure; must not know Ray.

Rule: what is asked fits one node. A GPU is never shared, and encoders on CPUs share their node's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError

Device = Literal["auto", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster, by what Ray counts on it."""

    n_cpus: float
    n_gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """So many encoders, with so many CPUs and GPUs each."""

    n_encoders: int
    cpus_each: int
    gpus_each: int

    @property
    def device(self) -> str:
        """Where such an encoder runs: Ray shows it no other GPU."""
        return "cuda:0" if self.gpus_each else "cpu"

    def in_words(self) -> str:
        """For people: "2 encoders with 8 CPUs each"."""
        n, cpus = self.n_encoders, self.cpus_each
        gpu = "a GPU and " if self.gpus_each else ""
        what = f"{gpu}{cpus} CPU{'s' if cpus > 1 else ''}"
        return f"{n} encoders with {what} each" if n > 1 else f"1 encoder with {what}"


def place_encoders(nodes: Sequence[Node], wanted: int | None, device: Device) -> Placement:
    """Encoders for these nodes: one a GPU where there are any, else one a node, unless `wanted`.

    More than there are GPUs may be wanted: the others begin as the cluster grows.

    Raises:
        ConfigError: no node has a CPU to give.
    """
    working = [node for node in nodes if node.n_cpus >= 1]
    if not working:
        raise ConfigError("no node of the Ray cluster has a CPU to give: see 'ray status'")
    with_gpus = [node for node in working if node.n_gpus >= 1]
    if with_gpus and device != "cpu":
        return Placement(
            n_encoders=wanted or sum(int(node.n_gpus) for node in with_gpus),
            cpus_each=max(1, min(int(node.n_cpus // int(node.n_gpus)) for node in with_gpus)),
            gpus_each=1,
        )
    n_encoders = wanted or len(working)
    a_node = math.ceil(n_encoders / len(working))
    fewest_cpus = min(node.n_cpus for node in working)
    return Placement(
        n_encoders=n_encoders, cpus_each=max(1, int(fewest_cpus // a_node)), gpus_each=0
    )


def cpus_a_task(nodes: Sequence[Node], n_tasks: int) -> int:
    """CPUs for each of `n_tasks` that are to run side by side, as far as they can."""
    working = [node.n_cpus for node in nodes if node.n_cpus >= 1]
    share = sum(working) / max(1, n_tasks)
    return max(1, int(min([share, *working])))


def lacks(placement: Placement, *, free_cpus: float, free_gpus: float) -> str:
    """What the first encoder has to wait for, in words; empty where it can begin."""
    if placement.gpus_each > free_gpus:
        return f"a GPU, and {free_gpus:.0f} are free"
    if placement.cpus_each > free_cpus:
        return f"{placement.cpus_each} CPUs, and {free_cpus:.0f} are free"
    return ""
