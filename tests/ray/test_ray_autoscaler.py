"""Ray's autoscaler brings the nodes that a cluster of ours has no room without."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakes.ray_growing import IDLE_S, VARIABLES, growing
from fakes.ray_head import RayHead
from faults.processes import ROOT, free_port, poll

from shoal.client import Client

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

FEWEST = {"cpu_worker": 2}
"""The workers that deploy/cluster.yaml keeps when nothing waits for room."""


@pytest.fixture
def head(tmp_path) -> Iterator[RayHead]:
    """A head without CPUs, as the file has it, and workers with one each."""
    head = RayHead(
        tmp_path / "state",
        n_cpus=0,
        growing=growing({"cpu_worker": {"CPU": 1}, "gpu_worker": {"CPU": 1, "GPU": 1}}),
        **VARIABLES,
        AUTOSCALER_METRIC_PORT=str(free_port()),
    )
    try:
        yield head.wait_started()
    finally:
        head.end()


@pytest.fixture
def shoal(head) -> Callable[..., dict]:
    """`shoal("up", ...)`: what the command says in JSON."""

    def run(*arguments: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments, "--json"], text=True, check=False,
            capture_output=True, timeout=200, cwd=ROOT, env={**os.environ, **head.environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def workers(head: RayHead) -> dict[str, str]:
    """Each live worker's type, by its node's id, as Ray's autoscaler tells it."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(head.address)
    nodes = {n.node_id: n.ray_node_type_name for n in (*status.active_nodes, *status.idle_nodes)}
    return {node: name for node, name in nodes.items() if name.endswith("_worker")}


def are(head: RayHead, expected: dict[str, int]) -> Callable[[], bool]:
    """Whether these are the workers, by Ray and by the processes that there are."""

    def look() -> bool:
        raylets = len(head.pids("raylet/raylet")) - 1  # the head's own
        return Counter(workers(head).values()) == expected and raylets == sum(expected.values())

    return look


def test_a_cluster_grows_by_the_node_that_it_lacks_and_shrinks_again(head, shoal, axes_index):
    """Two shards and a router fill three nodes of one CPU, and the file keeps two.

    There is one process of each, so every answer came through the new node. GPU nodes, which the
    file has as well, aren't started for what needs none.
    """
    poll(are(head, FEWEST), within_s=90.0, what="the least workers")
    before = workers(head)

    up = shoal("up", "--on", "ray", "--index", str(axes_index), "--start-timeout-s", "150")
    grown = workers(head)
    assert Counter(grown.values()) == {"cpu_worker": 3}
    assert set(before) < set(grown)
    replicas = shoal("status")["replicas"]
    assert {replica["node"] for replica in replicas} == set(grown)
    assert len(replicas) == 3
    with Client(up["target"]) as client:
        for axis, vector in enumerate(np.eye(8, dtype=np.float32)):
            answer = client.search(vector=vector, k=1, timeout_s=20)
            assert (answer.coverage, [hit.id for hit in answer.hits]) == (1.0, [f"p{axis}"])

    assert shoal("down")["was_running"]
    poll(are(head, FEWEST), within_s=IDLE_S + 60.0, what="the node that idles is gone")
