"""A cluster's life on a real Ray cluster: up, asked, down."""

import json
from pathlib import Path

import numpy as np
import pytest
from faults.processes import exists

from shoal.client import Client

pytestmark = pytest.mark.end_to_end


def running(folder: Path) -> list[str]:
    """Command lines of processes that were told to use this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "-m" in line.split():
            found.append(line)
    return found


def ids(target: str, axis: int) -> list[str]:
    with Client(target) as client:
        answer = client.search(vector=np.eye(8, dtype=np.float32)[axis], k=1, timeout_s=20)
    assert answer.coverage == 1.0
    return [hit.id for hit in answer.hits]


def test_a_cluster_on_ray_is_started_asked_and_ended(on_ray, axes_index, ray_state_home):
    """The command's whole way over real Ray: two routers answer, and `down` leaves nothing."""
    up = on_ray("up", "--on", "ray", "--index", str(axes_index), "--routers", "2", "--json")
    assert up.returncode == 0, up.stderr
    state = json.loads(up.stdout)
    assert state["target"].startswith("ipv4:")
    routers = [p["address"] for p in state["processes"] if p["role"] == "router"]
    assert state["target"] == f"ipv4:{','.join(routers)}"
    for target in (*routers, state["target"]):
        assert ids(target, 3) == ["p3"]
    pids = [p["pid"] for p in state["processes"]]
    assert len(pids) == 4
    assert all(exists(pid) for pid in pids)

    down = on_ray("down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["was_running"]
    assert not any(exists(pid) for pid in pids)
    assert not running(ray_state_home)
    assert not list(ray_state_home.rglob("*.*"))
