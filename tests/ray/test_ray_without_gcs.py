"""Fault 52: Ray's head loses its GCS, which without fault tolerance never comes back."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from fakes.ray_cluster import Served, none_fails
from fakes.ray_head import RayHead
from faults.load import Run, until
from faults.processes import ROOT, exists

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

OUTAGE_S = 20.0


@pytest.fixture
def state_home(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def head_of(state_home):
    """Starts a node whose raylet waits for its GCS for five minutes; ends all at the end."""
    heads: list[RayHead] = []

    def start() -> RayHead:
        heads.append(RayHead(state_home, block=False, RAY_gcs_rpc_server_reconnect_timeout_s="300"))
        return heads[-1].wait_started()

    yield start
    for head in heads:
        head.end()


async def test_without_the_gcs_queries_go_on_and_down_and_up_recover(
    head_of, mini, mini_oracle, rate
):
    """Leases and heartbeats go from process to process: nothing of a query needs Ray's head."""
    head = head_of()

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True,
            timeout=150, check=False, cwd=ROOT, env={**os.environ, **head.environment},
        )  # fmt: skip

    served = Served(command, mini)
    served.up()
    shard = served.shards()[0]["pid"]

    async def kill(run: Run) -> None:
        (gcs,) = head.pids("gcs_server")
        os.kill(gcs, signal.SIGKILL)
        await asyncio.sleep(OUTAGE_S / 2)
        os.kill(shard, signal.SIGKILL)  # and what crashes meanwhile is started again
        await asyncio.sleep(OUTAGE_S / 2)

    await none_fails(served, mini_oracle, kill, rate=rate)

    down = command("down")
    assert down.returncode == 0, down.stderr
    assert "ray stop" in down.stderr
    left = head.pids("shard_server")
    head.end()
    assert not any(map(exists, left))
    head = head_of()
    served.up()
    await until(served.whole, 60.0, "the cluster is whole")
    assert command("down").returncode == 0
