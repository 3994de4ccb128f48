"""How many encoders a cluster gets, and what each asks of it. Pure; must not know Ray.

Rule: what is asked fits one node beside what runs there: a node that serves has given CPUs away,
and Ray would wait for them silently. A GPU is never shared, and encoders on CPUs share a node's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError

Device = Literal["auto", "cpu"]
_WORTH_IT = 4
"""A node that has less than so many times the free CPUs of the freest is left out: what is asked
must fit the smallest, and one with a CPU left would make every encoder that small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster, by what Ray counts on it: in all, and free now."""

    n_cpus: float
    n_gpus: float
    free_cpus: float
    free_gpus: float


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
    """Encoders for these nodes: one a free GPU where there are GPUs, else one a node, unless
    `wanted`; with one CPU each where none is free, and then they wait.

    More than there are GPUs may be wanted: the others begin as the cluster grows.

    Raises:
        ConfigError: no node has a CPU, taken or not.
    """
    working = [node for node in nodes if node.n_cpus >= 1]
    if not working:
        raise ConfigError("no node of the Ray cluster has a CPU to give: see 'ray status'")
    with_gpus = [node for node in working if node.n_gpus >= 1]
    if with_gpus and device != "cpu":
        free = _roomy([node for node in with_gpus if node.free_gpus >= 1])
        shares = [int(node.free_cpus // int(node.free_gpus)) for node in free]
        return Placement(
            n_encoders=wanted
            or sum(int(node.free_gpus) for node in free)
            or sum(int(node.n_gpus) for node in with_gpus),
            cpus_each=max(1, min(shares, default=1)),
            gpus_each=1,
        )
    free = _roomy(working)
    n_nodes = len(free) or len(working)
    n_encoders = wanted or n_nodes
    fewest_cpus = min((node.free_cpus for node in free), default=1)
    a_node = math.ceil(n_encoders / n_nodes)
    return Placement(
        n_encoders=n_encoders, cpus_each=max(1, int(fewest_cpus // a_node)), gpus_each=0
    )


def cpus_a_task(nodes: Sequence[Node], n_tasks: int) -> int:
    """CPUs for each of `n_tasks` that are to run side by side, as far as they can; 1 where none is
    free.
    """
    free = [node.free_cpus for node in _roomy(nodes)]
    share = sum(free) / max(1, n_tasks)
    return max(1, int(min([share, *free])))


def lacks(nodes: Sequence[Node], *, n_cpus: int, n_gpus: int) -> str:
    """What the first encoder or task has to wait for, in words; empty where it can begin. It runs
    on one node: what is free on several doesn't add up.
    """
    if any(node.free_cpus >= n_cpus and node.free_gpus >= n_gpus for node in nodes):
        return ""
    gpu = "a GPU and " if n_gpus else ""
    cpus = f"{n_cpus} CPU{'s' if n_cpus > 1 else ''}"
    return f"a node that has {gpu}{cpus} free: see 'ray status'"


def _roomy(nodes: Sequence[Node]) -> list[Node]:
    free = [node for node in nodes if node.free_cpus >= 1]
    most = max((node.free_cpus for node in free), default=0.0)
    return [node for node in free if node.free_cpus * _WORTH_IT >= most]
