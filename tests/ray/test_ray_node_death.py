"""Fault 50: one of three nodes goes down with all that runs on it."""

import os
import subprocess
import sys

import pytest
from fakes.ray_cluster import Served, none_fails
from fakes.ray_head import RayHead, kill_node
from faults.load import Run, until
from faults.processes import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

EJECTED_S = 2.0
HOSTS = ("127.0.0.3", "127.0.0.4")


async def test_a_dead_node_is_left_out_in_two_seconds_and_its_replicas_start_elsewhere(
    tmp_path, mini, mini_oracle, rate
):
    """Ray itself notices after many seconds; routers and clients must not wait for it."""
    head = RayHead(tmp_path / "state").wait_started()

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True,
            timeout=150, check=False, cwd=ROOT, env={**os.environ, **head.environment},
        )  # fmt: skip

    try:
        nodes = {host: head.add_node(host) for host in HOSTS}
        served = Served(command, mini)
        served.up()
        at = {replica["host"] for replica in served.replicas().values()}
        victim = max(at & set(HOSTS))  # replicas are spread: at least one of the two has some

        async def kill(run: Run) -> None:
            kill_node(nodes[victim])

        await none_fails(
            served, mini_oracle, kill, rate=rate, within_s=EJECTED_S, after_s=15.0
        )  # fmt: skip
        await until(served.whole, 150.0, "the replicas are replaced")
        assert victim not in {replica["host"] for replica in served.replicas().values()}
        assert command("down").returncode == 0
    finally:
        head.end()
