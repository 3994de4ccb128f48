"""The faiss that a shard would load: its wheels, and what a child process of ours says of it.

Rule: faiss is not imported here. A wheel for another processor ends its process with SIGILL, and
libraries of another CUDA may hang it; the child takes both upon itself.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from deploy.child import how_ended
from deploy.doctor.facts.asking import ask
from shoal.child_environment import import_environment

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12")
"""Distributions that all provide the module `faiss`."""
_TIMEOUT_S = 60.0
"""A first CUDA context can take half a minute on a machine with many GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaissBuild:
    """`wheels` are (name, version); with a `fault`, the rest is unknown: it could not be loaded."""

    wheels: tuple[tuple[str, str], ...]
    version: str = ""
    level: str = ""
    levels: tuple[str, ...] = ()
    n_gpus: int = 0
    fault: str = ""


def read_faiss_build(timeout_s: float = _TIMEOUT_S) -> FaissBuild | None:
    """What is installed here; None where no wheel of faiss is."""
    wheels = tuple((name, version) for name in WHEELS if (version := installed(name)))
    if not wheels:
        return None
    command = [sys.executable, "-P", "-m", "shard_server.faiss_build"]
    try:
        child = ask(command, timeout_s, {**os.environ, **import_environment()})
    except subprocess.TimeoutExpired:
        return FaissBuild(wheels=wheels, fault=f"it hangs: not loaded within {timeout_s:g} s")
    return parse_answer(wheels, child.returncode, child.stdout)


def parse_answer(wheels: tuple[tuple[str, str], ...], code: int, answer: str) -> FaissBuild:
    """What the child that ended with `code` said. Pure."""
    if code:
        return FaissBuild(wheels=wheels, fault=f"loading it ended with {how_ended(code)}")
    told = json.loads(answer)
    if "fault" in told:
        return FaissBuild(wheels=wheels, fault=" ".join(told["fault"].split()))
    return FaissBuild(
        wheels=wheels,
        version=told["version"],
        level=told["level"],
        levels=tuple(told["levels"]),
        n_gpus=told["n_gpus"],
    )


def installed(distribution: str) -> str:
    """A distribution's version; "" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
