"""A move to another version: all or nothing, nobody waits, nothing is closed under a search."""

import asyncio
import json

import grpc
import pytest
from fakes.asking import refusal, request
from fakes.cluster import Cluster, eventually, running
from prometheus_client import REGISTRY

from shoal.errors import FailedPreconditionError, NotFoundError
from shoal.internal.v1 import admin_pb2


def reload(cluster: Cluster, version: int = 2, timeout_s: float = 60.0):
    asked = admin_pb2.ReloadIndexRequest(index="books", version=version)
    return cluster.admin.ReloadIndex(asked, timeout=timeout_s)


def told_version(cluster: Cluster) -> int:
    return json.loads(cluster.topology.read_text())["indexes"][0]["version"]


def open_versions(cluster: Cluster) -> set[int]:
    return {v for replica in cluster.replicas for v in (replica.version, *replica.loaded)}


def failures_told() -> float:
    """What an alarm is set on."""
    return REGISTRY.get_sample_value("shoal_reload_failures_total", {"index": "books"}) or 0.0


async def served_version(cluster: Cluster) -> int:
    answer = await cluster.search(request())
    assert answer.coverage == 1.0
    return answer.version


async def test_a_reload_moves_and_releases(tmp_path):
    """The answer, the topology file, every replica: the new version; the old one is closed."""
    async with running(tmp_path, n_replicas=2) as cluster:
        assert (await reload(cluster)).version == 2
        assert await served_version(cluster) == 2
        assert told_version(cluster) == 2
        await eventually(lambda: open_versions(cluster) == {2})
        assert await served_version(cluster) == 2
        assert (await reload(cluster, 3)).version == 3
        await eventually(lambda: open_versions(cluster) == {3})


async def test_a_changed_topology_file_does_not_undo_a_reload(tmp_path):
    """Whoever edits what the file says now keeps the version that it says."""
    async with running(tmp_path, n_replicas=2) as cluster:
        await reload(cluster)
        cluster.version = told_version(cluster)
        cluster.write_topology([[replicas[0].address] for replicas in cluster.shards])
        await eventually(lambda: cluster.usable() == [[True], [True]])
        assert await served_version(cluster) == 2


@pytest.mark.parametrize("failure", [FailedPreconditionError("bit flip"), NotFoundError("none")])
async def test_one_replica_that_cannot_load_keeps_the_old_version(tmp_path, failure):
    """Fault 24: which and why is told, the alarm counts, what the others loaded is closed again."""
    async with running(tmp_path, n_replicas=2) as cluster:
        last = cluster.shards[1][1]
        last.script.raises_on_load = failure
        before = failures_told()
        refused = await refusal(reload(cluster))
        assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"shard 1 at {last.address}: {failure.message}; version 1" in refused.details()
        assert await served_version(cluster) == told_version(cluster) == 1
        assert failures_told() == before + 1
        await eventually(lambda: open_versions(cluster) == {1})
        last.script.raises_on_load = None
        await reload(cluster)
        assert failures_told() == before + 1


def other_count(version) -> None:
    version.n_live_by_shard[0] += 1


def other_shards(version) -> None:
    version.n_live_by_shard.append(1)


def other_encoder(version) -> None:
    version.contract.question.fingerprint = "stranger"


@pytest.mark.parametrize(
    ("change", "who", "told"),
    [
        (other_count, slice(1), "disagree"),
        (other_shards, slice(None), "3 shards, 2 are served"),
        (other_encoder, slice(None), "encoder stranger"),
    ],
)
async def test_a_version_that_does_not_fit_is_refused(tmp_path, change, who, told):
    """Replicas of different contents, another number of shards, a model that nobody serves."""
    async with running(tmp_path) as cluster:
        for replica in cluster.replicas[who]:
            replica.script.mutate_loaded = change
        refused = await refusal(reload(cluster))
        assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert told in refused.details()
        assert await served_version(cluster) == 1
        await eventually(lambda: open_versions(cluster) == {1})


async def test_a_search_under_way_keeps_its_version_open(tmp_path):
    """The old version is released after its last search, and new searches don't wait for that."""
    async with running(tmp_path) as cluster:
        slow = cluster.shards[0][0].script
        slow.gate.clear()
        under_way = asyncio.ensure_future(cluster.search(request()))
        await eventually(lambda: slow.n_under_way == 1)
        await reload(cluster)
        await asyncio.sleep(0.1)  # it would be released by now
        assert not slow.released
        slow.gate.set()
        assert (await under_way).version == 1
        await eventually(lambda: open_versions(cluster) == {2})


async def test_two_reloads_at_once(tmp_path):
    """The second is refused, and the first comes to its end though its caller has left."""
    async with running(tmp_path) as cluster:
        script = cluster.shards[0][0].script
        script.load_gate.clear()
        first = asyncio.ensure_future(reload(cluster))
        await eventually(lambda: script.n_loads == 1)
        refused = await refusal(reload(cluster, 3))
        assert "under way" in refused.details()
        first.cancel()
        script.load_gate.set()
        # the file says it first, a moment before it is served
        await eventually(lambda: cluster.registry.served.indexes["books"].version == 2)
        assert await served_version(cluster) == told_version(cluster) == 2


async def test_a_load_that_takes_too_long_is_given_up(tmp_path):
    """The caller's deadline bounds the loading; the old version serves on."""
    async with running(tmp_path) as cluster:
        cluster.shards[0][0].script.load_gate.clear()
        refused = await refusal(reload(cluster, timeout_s=0.5))
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await served_version(cluster) == told_version(cluster) == 1


async def test_a_replica_that_is_being_restarted_is_waited_for(tmp_path):
    """It forgot what it had loaded: it is asked again before the flip."""
    async with running(tmp_path, n_replicas=2) as cluster:
        first, last = cluster.replicas[0], cluster.replicas[-1]
        last.script.load_gate.clear()
        moving = asyncio.ensure_future(reload(cluster))
        await eventually(lambda: last.script.n_loads == 1)
        await first.stop()
        first.loaded.clear()
        await first.start()
        last.script.load_gate.set()
        assert (await moving).version == 2
        assert 2 in {first.version, *first.loaded}


async def test_a_topology_file_that_cannot_be_changed_refuses_the_reload(tmp_path):
    """A router that starts again would otherwise search a version that nobody has open."""
    async with running(tmp_path) as cluster:
        cluster.topology.unlink()
        refused = await refusal(reload(cluster))
        assert "topology" in refused.details()
        assert await served_version(cluster) == 1
        await eventually(lambda: open_versions(cluster) == {1})


async def test_a_reload_to_the_version_that_serves_mends_a_replica(tmp_path):
    """One that lost the version opens it again."""
    async with running(tmp_path) as cluster:
        await reload(cluster)
        await eventually(lambda: open_versions(cluster) == {2})
        cluster.shards[0][0].version = 1
        await reload(cluster)
        assert await served_version(cluster) == 2


async def test_version_0_is_no_version(tmp_path):
    """An absent version is INVALID_ARGUMENT, and an unknown index NOT_FOUND."""
    async with running(tmp_path) as cluster:
        refused = await refusal(reload(cluster, 0))
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        asked = admin_pb2.ReloadIndexRequest(index="films", version=2)
        refused = await refusal(cluster.admin.ReloadIndex(asked, timeout=5))
        assert refused.code() is grpc.StatusCode.NOT_FOUND
