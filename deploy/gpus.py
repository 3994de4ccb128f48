"""Which GPU each shard process of one machine gets: one each, in turn.

Rule: a process sees its own GPU alone, as device 0, so that its --device means the same on every
machine, and `auto` still falls back to the CPU where the index is not built for a GPU.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICE_FILE = re.compile(r"nvidia(\d+)")


def gpus_of(environment: Mapping[str, str], device_files: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that this process may use, by CUDA's names. Pure.

    Args:
        environment: its variables; CUDA_VISIBLE_DEVICES narrows and renumbers, as CUDA has it.
        device_files: names in /dev.
    """
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        # CUDA stops reading at the first that is no device
        valid = [not name.startswith("-") and bool(name) for name in names]
        return tuple(names[: valid.index(False) if False in valid else len(names)])
    numbers = sorted(
        int(found[1]) for name in device_files if (found := _DEVICE_FILE.fullmatch(name))
    )
    return tuple(str(place) for place in range(len(numbers)))


def gpu_for(device: str | None, gpus: Sequence[str], number: int) -> dict[str, str]:
    """The variables that give the machine's shard process `number` its GPU. Pure.

    Args:
        device: what the operator asked for; a GPU named by number ("cuda:1") is taken as it is.
        gpus: what `gpus_of` found.
        number: of the process among the machine's shard processes, from 0.
    """
    if not gpus or device not in {None, "auto", "cuda"}:
        return {}
    return {VISIBLE: gpus[number % len(gpus)]}


def gpus_here(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs of this machine that a process with this environment may use."""
    return gpus_of(environment, [path.name for path in Path("/dev").glob("nvidia*")])
