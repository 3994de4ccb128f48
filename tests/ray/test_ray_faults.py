"""What a cluster on Ray lives through without a failed query: 2 shards x 2 replicas, 2 routers."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from fakes.bare_encode import BareEncode
from fakes.ray_cluster import Served, none_fails
from fakes.ray_head import parent_of
from faults import stub
from faults.load import Run, until
from faults.processes import exists

from shard_server.building import add_passages
from shoal.formats.versions import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def served(on_ray, mini) -> Iterator[Served]:
    cluster = Served(on_ray, mini)
    cluster.up()
    yield cluster
    assert on_ray("down").returncode == 0


@pytest.fixture
def loaded(served, mini_oracle, rate) -> Callable:
    """`await loaded(inject)`: queries around a fault, of which none fails."""

    async def run(inject, after_s: float = 5.0) -> Run:
        return await none_fails(served, mini_oracle, inject, rate=rate, after_s=after_s)

    return run


async def test_a_killed_shard_process_is_started_again_by_its_replica(served, loaded):
    """A crash of the child is no crash of the replica: same replica, same port, no failed query."""
    before = served.shards()[0]

    async def kill(run: Run) -> None:
        os.kill(before["pid"], signal.SIGKILL)

    await loaded(kill)
    await until(served.whole, 30.0, "the process is back")
    after = served.replicas()[before["replica"]]
    assert after["address"] == before["address"]
    assert after["pid"] != before["pid"]
    assert after["n_restarts"] == before["n_restarts"] + 1


async def test_a_killed_replica_actor_leaves_no_process_and_is_replaced(served, loaded):
    """The child ends with its supervisor, or two would serve and only one be drained."""
    before = served.shards()[-1]

    async def kill(run: Run) -> None:
        os.kill(parent_of(before["pid"]), signal.SIGKILL)
        await until(lambda: not exists(before["pid"]), 5.0, "the child is gone")

    await loaded(kill)
    await until(served.whole, 90.0, "the replica is replaced")
    after = served.replicas()
    assert before["replica"] not in after
    assert sum(r["deployment"] == before["deployment"] for r in after.values()) == 2


async def test_without_the_serve_controller_queries_go_on(served, loaded, ray_head):
    """Fault 51: no query and no lease passes through it; Ray starts it again within 30 s."""
    before = served.replicas()
    (controller,) = ray_head.pids("ServeController")

    async def kill(run: Run) -> None:
        os.kill(controller, signal.SIGKILL)

    await loaded(kill, after_s=10.0)
    await until(lambda: served.status().get("application") == "RUNNING", 30.0, "Serve is back")
    await until(served.whole, 30.0, "the cluster is whole")
    assert set(served.replicas()) == set(before)
    assert ray_head.pids("ServeController") != [controller]


async def test_a_new_version_of_the_index_is_rolled_to_every_router(served, loaded, mini, on_ray):
    """A reload fails no query, and a process that is started afterwards opens the new version."""
    add_passages(mini.folder, stub.passages(stub.N_PASSAGES, 400), BareEncode())
    mini.manifests[2] = load_manifest(mini.folder, 2)

    async def reload(run: Run) -> None:
        done = await asyncio.to_thread(on_ray, "reload", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["version"] == 2

    run = await loaded(reload)
    assert {s.response.version for s in run.after if s.response} == {2}
    shard = served.shards()[0]
    os.kill(shard["pid"], signal.SIGKILL)
    await until(served.whole, 60.0, "the process is back")
    assert served.replicas()[shard["replica"]]["versions"] == [2]


async def test_a_new_program_is_rolled_replica_by_replica(served, loaded):
    """Every replica is another one afterwards; routers keep their addresses; no query fails."""
    before, version = served.replicas(), served.status()["version"]
    target = served.target

    async def redeploy(run: Run) -> None:
        await asyncio.to_thread(served.up, "--grace-s", "9")

    await loaded(redeploy)
    await until(served.whole, 60.0, "the cluster is whole")
    assert not set(served.replicas()) & set(before)
    assert served.target == target
    assert served.status()["version"] == version


async def test_the_same_options_again_restart_nothing(served):
    """`up` says what shall be: where that is so already, it changes nothing."""
    await until(served.whole, 60.0, "the cluster is whole")
    before = served.replicas()
    served.up("--grace-s", "9")
    assert set(served.replicas()) == set(before)
