"""A reload, killed at any moment: the cluster serves the old version or the new, never neither."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deploy.state import read_state
from shard_server.building import BuildOptions, Passage, build_index
from shoal.client import Client
from shoal.errors import ShoalError

pytestmark = pytest.mark.end_to_end

DIM, N_PASSAGES = 8, 64
VICTIMS = ("router", "shard-1a", "command")


class Axes:
    """Passage i's vector is axis i % 8, made longer by i; counts what it encodes."""

    contract = None
    dim = DIM

    def __call__(self, titles, texts):
        return np.stack([np.eye(DIM, dtype=np.float32)[int(t) % DIM] * (1 + int(t)) for t in texts])


def build(index_dir, version: int) -> None:
    passages = [
        Passage(id=f"p{i}", title=f"v{version}", text=str(i), where=f"x:{i}")
        for i in range(N_PASSAGES)
    ]
    options = BuildOptions(name="tiny", n_shards=2, recipe="Flat", overwrite=True)
    assert build_index(index_dir, passages, Axes(), options).version == version


def served_version(target: str, version: int) -> int | None:
    """The version of a whole and right answer; None while there is none."""
    try:
        with Client(target) as client:
            answer = client.search(vector=np.eye(DIM, dtype=np.float32)[3], k=8, timeout_s=5)
    except ShoalError:
        return None
    assert [hit.id for hit in answer.hits] == [f"p{i}" for i in range(59, 0, -8)]
    assert {hit.title for hit in answer.hits} == {f"v{answer.version}"}, "versions are mixed"
    assert answer.version in {version - 1, version}
    return answer.version


@pytest.mark.timeout(3_600)  # for --seeds 50; each wait has its own limit
def test_a_reload_killed_anywhere_ends_old_or_new(tmp_path, shoal, eventually, seeds):
    """SIGKILL of the router, a shard or the command at a seeded moment; then a reload succeeds."""
    index_dir = tmp_path / "index"
    build(index_dir, 1)
    up = shoal("up", "--index", str(index_dir), "--port", "0", "--detach")
    assert up.returncode == 0, up.stderr
    target = read_state("default").target
    for seed in range(seeds):
        chance = random.Random(seed)
        version = seed + 2
        build(index_dir, version)
        pids = {process.name: process.pid for process in read_state("default").processes}
        command = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli.main", "reload"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # a moment of the fault, not a wait for a state
        time.sleep(chance.uniform(0.3, 2.0))
        victim = VICTIMS[seed % len(VICTIMS)]
        if victim == "command":
            command.kill()
        else:
            os.kill(pids[victim], signal.SIGKILL)
        command.wait(timeout=90)
        eventually(lambda v=version: served_version(target, v) is not None, timeout_s=60)
        eventually(lambda: shoal("status").returncode == 0, timeout_s=60)
        eventually(lambda: shoal("reload").returncode == 0, timeout_s=60)
        assert served_version(target, version) == version
