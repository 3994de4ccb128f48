"""One Ray cluster a session, and the `shoal` command beside it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.bare_encode import BareEncode
from fakes.known_vectors import build_axes
from fakes.ray_head import RayHead
from faults import stub
from faults.index import MiniIndex
from faults.oracle import Oracle
from faults.processes import ROOT

from shard_server.building import BuildOptions, build_index
from shoal.formats.versions import load_manifest


@pytest.fixture(scope="session")
def axes_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight passages in two shards, without an encoder."""
    return build_axes(tmp_path_factory.mktemp("axes") / "index", "axes")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> MiniIndex:
    """Version 1 of 20,000 passages in two shards; a test may add versions."""
    folder = tmp_path_factory.mktemp("mini") / stub.NAME
    options = BuildOptions(
        name=stub.NAME, recipe=stub.RECIPE, n_shards=2, max_training_vectors=2_000
    )
    build_index(folder, stub.passages(0, stub.N_PASSAGES), BareEncode(), options)
    return MiniIndex(folder=folder, manifests={1: load_manifest(folder, 1)})


@pytest.fixture(scope="module")
def mini_oracle(mini: MiniIndex) -> Oracle:
    return Oracle(mini, np.stack([stub.vector_of(f"question {i}") for i in range(64)]))


@pytest.fixture(scope="session")
def rate(pytestconfig: pytest.Config) -> float:
    """Queries a second of the open loop."""
    return pytestconfig.getoption("--rate")


@pytest.fixture(scope="session")
def ray_state_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands and the nodes of the session keep their files."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def ray_head(ray_state_home: Path) -> Iterator[RayHead]:
    head = RayHead(ray_state_home)
    try:
        yield head.wait_started()
    finally:
        head.end()


@pytest.fixture(scope="session")
def run_shoal() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_shoal(head, "up", ...)`: the command against that Ray cluster."""

    def run(
        head: RayHead, *arguments: str, timeout_s: float = 150.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True,
            timeout=timeout_s, check=False, cwd=ROOT, env={**os.environ, **head.environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def on_ray(
    ray_head: RayHead, ray_state_home: Path, run_shoal
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`on_ray("up", ...)`: `run_shoal` on the session's cluster; ends what it left running."""

    def run(*arguments: str, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
        return run_shoal(ray_head, *arguments, timeout_s=timeout_s)

    yield run
    for state in (ray_state_home / "shoal").glob("*.json"):
        run("down", "--name", state.stem)
