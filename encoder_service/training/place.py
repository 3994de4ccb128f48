"""A process's place among those that train together on one machine, as the environment tells it.

The names are torchrun's, and two of ours: the file where the processes meet, so that no port has to
be found for it, and the process that started them. Pure; knows nothing of torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

_MEETING = "SHOAL_TRAINING_MEETING"
_PARENT = "SHOAL_TRAINING_PARENT"


class Meeting(TypedDict, total=False):
    """What torch's `init_process_group` is told beside the environment."""

    init_method: str
    rank: int
    world_size: int


def environment_of(
    environment: Mapping[str, str],
    *,
    rank: int,
    n_processes: int,
    meeting: Path,
    parent_pid: int,
    n_cores: int,
) -> dict[str, str]:
    """The environment of one of `n_processes`: `environment`, and its place.

    Args:
        environment: the parent's; its own choice of threads and of gloo's interface holds.
        rank: from 0.
        n_processes: on this machine, which are all.
        meeting: a file that isn't there yet, for these processes alone.
        parent_pid: whose end is theirs.
        n_cores: which the processes share.
    """
    shared = {
        "OMP_NUM_THREADS": str(max(1, n_cores // n_processes)),
        "GLOO_SOCKET_IFNAME": "lo",  # nobody else is to hear them
    }
    own = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_processes,
        "LOCAL_WORLD_SIZE": n_processes, _MEETING: meeting, _PARENT: parent_pid,
    }  # fmt: skip
    return {**shared, **environment, **{name: str(value) for name, value in own.items()}}


def parent_of(environment: Mapping[str, str]) -> int | None:
    """The process that started this one as one of several; None where none did."""
    return int(environment[_PARENT]) if _PARENT in environment else None


def has_place(environment: Mapping[str, str]) -> bool:
    """Whether anybody, torchrun or we, has started this process as one of several."""
    return "RANK" in environment


def meeting_of(environment: Mapping[str, str]) -> Meeting:
    """Where the processes meet; empty where the launcher says it by MASTER_ADDR and MASTER_PORT."""
    if _MEETING not in environment:
        return {}
    return {
        "init_method": f"file://{environment[_MEETING]}",
        "rank": int(environment["RANK"]),
        "world_size": int(environment["WORLD_SIZE"]),
    }
