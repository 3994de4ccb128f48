"""One Ray cluster a session, and the `shoal` command beside it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.ray_head import RayHead
from faults.processes import ROOT

DIM = 8


class UnitAxes:
    """Passage i's vector is axis i: the exact answer to any query can be read off it."""

    contract = None
    dim = DIM

    def __call__(self, titles, texts):
        return np.eye(DIM, dtype=np.float32)[[int(text.split()[-1]) for text in texts]]


@pytest.fixture(scope="session")
def axes_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight passages in two shards, without an encoder."""
    from shard_server.building.build import BuildOptions, build_index
    from shard_server.building.read import read_corpus

    folder = tmp_path_factory.mktemp("axes")
    lines = [f'{{"_id": "p{i}", "title": "", "text": "passage {i}"}}' for i in range(DIM)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    passages = read_corpus(str(folder / "corpus.jsonl"))
    build_index(folder / "index", passages, UnitAxes(), BuildOptions(name="axes", n_shards=2))
    return folder / "index"


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


@pytest.fixture
def on_ray(
    ray_head: RayHead, ray_state_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`on_ray("up", ...)`: the command against the session's cluster; ends what it left running."""
    monkeypatch.setenv("XDG_STATE_HOME", str(ray_state_home))

    def run(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True,
            timeout=timeout_s, check=False, cwd=ROOT, env={**os.environ, **ray_head.environment},
        )  # fmt: skip

    yield run
    for state in (ray_state_home / "shoal").glob("*.json"):
        run("down", "--name", state.stem)
