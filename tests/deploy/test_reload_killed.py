"""A reload, killed at any moment: the cluster serves the old version or the new, never neither.

`pytest --seeds 50 -rP tests/deploy/test_reload_killed.py` kills fifty times instead of a few, and
prints whom, when, and what was served then.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from deploy.reload import reload_cluster
from deploy.state import ClusterState, read_state, start_time
from shard_server.building import BuildOptions, Passage, build_index
from shoal.client import Client
from shoal.errors import ShoalError

pytestmark = pytest.mark.end_to_end

DIM, N_PASSAGES = 8, 64
VICTIMS = ("router", "shard-1a", "command", "launcher")
"""In this order each launcher sees a process crash once: no restart is delayed."""
COMMAND_STARTS_S = 0.4
"""Python and its imports: a kill before that would be of nothing."""


class Axes:
    """Passage i's vector is axis i % 8, made longer by i."""

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


def served_version(version: int) -> int | None:
    """The version of a whole and right answer; None while there is none."""
    try:
        with Client(state().target) as client:
            answer = client.search(
                vector=np.eye(DIM, dtype=np.float32)[3], k=8, min_coverage=1.0, timeout_s=20
            )
    except ShoalError:
        return None
    assert [hit.id for hit in answer.hits] == [f"p{i}" for i in range(59, 0, -8)]
    assert {hit.title for hit in answer.hits} == {f"v{answer.version}"}, "versions are mixed"
    assert answer.version in {version - 1, version}
    return answer.version


def state() -> ClusterState:
    found = read_state("default")
    assert found is not None
    return found


def has_moved(version: int) -> bool:
    """Moves it; False where it has to be tried again: somebody is being restarted."""
    try:
        return reload_cluster(state(), version, 60).version == version
    except ShoalError:
        return False


def start(shoal, index_dir) -> None:
    up = shoal("up", "--index", str(index_dir), "--port", "0", "--detach")
    assert up.returncode == 0, up.stderr
    # so nothing could be encoded again: vectors are what the index was built from
    assert {process.role for process in state().processes} == {"shard", "router"}


def kill_in_reload(victim: str, version: int, share: float, reload_s: float) -> None:
    """Begins to move the cluster, and kills the victim when a share of the usual time is over."""
    running = state()
    if victim == "command":
        command = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli.main", "reload"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(COMMAND_STARTS_S + share * (reload_s + COMMAND_STARTS_S))
        command.kill()
        command.wait(timeout=30)
        return
    pids = {process.name: process.pid for process in running.processes}
    moving = threading.Thread(target=has_moved, args=(version,))
    moving.start()
    # a moment of the fault, not a wait for a state
    time.sleep(share * reload_s)
    os.kill(pids.get(victim, running.pid), signal.SIGKILL)
    moving.join(90)
    assert not moving.is_alive()


@pytest.mark.timeout(3_600)  # for --seeds 50; each wait has its own limit
def test_a_reload_killed_anywhere_ends_old_or_new(tmp_path, shoal, eventually, seeds, monkeypatch):
    """SIGKILL of the router, a shard, the command or the launcher at a seeded moment: what answers
    then is one version, whole and right; a reload succeeds after it. One kill more than seeds, so
    that the few of every run have all four.
    """
    monkeypatch.setenv("SHOAL_ROUTER__RELEASE_AFTER_S", "0.2")
    index_dir = tmp_path / "index"
    build(index_dir, 1)
    start(shoal, index_dir)
    build(index_dir, 2)
    begun_s = time.monotonic()
    assert has_moved(2), "nobody has been killed yet"
    reload_s = time.monotonic() - begun_s
    for seed in range(seeds + 1):
        share = random.Random(seed).random()
        victim, version = VICTIMS[seed % len(VICTIMS)], seed + 3
        build(index_dir, version)
        before = state()
        kill_in_reload(victim, version, share, reload_s)
        if victim == "launcher":
            eventually(lambda was=before: all(gone(process) for process in was.processes))
            start(shoal, index_dir)
        eventually(lambda v=version: served_version(v) is not None, timeout_s=90)
        print(f"{victim} killed at {share:.2f}: version {served_version(version)} of {version}")
        eventually(lambda v=version: has_moved(v), timeout_s=90)
        assert eventually(lambda v=version: served_version(v), timeout_s=90) == version


def gone(process) -> bool:
    return start_time(process.pid) != process.started
