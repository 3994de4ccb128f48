"""A cluster's life on a real Ray cluster: up, asked, down."""

import json

import numpy as np
import pytest
from fakes.ray_head import running
from faults.processes import exists

from shoal.client import Client

pytestmark = pytest.mark.end_to_end


def ids(target: str, axis: int) -> list[str]:
    with Client(target) as client:
        answer = client.search(vector=np.eye(8, dtype=np.float32)[axis], k=1, timeout_s=60)
    assert answer.coverage == 1.0
    return [hit.id for hit in answer.hits]


def test_a_cluster_on_ray_is_started_asked_and_ended(on_ray, axes_index, ray_state_home):
    """The command's whole way over real Ray: two routers answer, and `down` leaves nothing."""
    up = on_ray("up", "--on", "ray", "--index", str(axes_index), "--routers", "2", "--json")
    assert up.returncode == 0, up.stderr
    state = json.loads(up.stdout)
    assert state["target"].startswith("ipv4:")
    routers = sorted(p["address"] for p in state["processes"] if p["role"] == "router")
    assert sorted(state["target"].removeprefix("ipv4:").split(",")) == routers
    for target in (*routers, state["target"]):
        assert ids(target, 3) == ["p3"]
    pids = [p["pid"] for p in state["processes"]]
    assert len(pids) == 4
    assert all(exists(pid) for pid in pids)

    down = on_ray("down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["was_running"]
    assert not any(exists(pid) for pid in pids)
    assert not running(str(ray_state_home))
    assert not list(ray_state_home.rglob("*.*"))
