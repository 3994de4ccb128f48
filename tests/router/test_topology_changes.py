"""Replicas that come, go, move and serve something else, under questions."""

import asyncio

import grpc
import pytest
from fakes.asking import check_partial, refusal, request
from fakes.cluster import eventually, never_late, running

from shoal.internal.v1 import admin_pb2
from shoal.v1 import search_pb2 as pb


async def test_swapped_addresses_are_not_believed(tmp_path):
    """A process that serves another shard than the topology says is left out, not merged twice."""
    async with running(tmp_path) as cluster:
        first = cluster.shards[0][0].address
        cluster.write_topology([[first], [first]])
        await eventually(lambda: cluster.usable() == [[True], [False]])
        answer = await cluster.search(request(min_coverage=0.2))
        check_partial(cluster, answer, pb.OUTCOME_DOWN)
        told = await cluster.admin.GetTopology(admin_pb2.GetTopologyRequest())
        assert "shard 0" in told.indexes[0].shards[1].replicas[0].detail


async def test_a_replica_without_the_version_is_asked_last(tmp_path, monkeypatch):
    """While a sibling has the pinned version, one that has another costs no call."""
    never_late(monkeypatch)
    async with running(tmp_path, n_shards=1, n_replicas=2) as cluster:
        moved = cluster.shards[0][0]
        moved.version = 2
        replica = cluster.registry.served.indexes["books"].shards[0][0]
        await eventually(lambda: set(replica.versions) == {2})
        calls = moved.script.n_searches
        for _ in range(10):
            assert (await cluster.search(request())).version == 1
        assert moved.script.n_searches == calls


async def test_a_topology_of_other_shards_is_told(tmp_path):
    """Three shards where the servers have two: FAILED_PRECONDITION, and the lists still work."""
    async with running(tmp_path) as cluster:
        addresses = [[replica.address] for replica in cluster.replicas]
        cluster.write_topology([*addresses, []])
        await eventually(lambda: len(cluster.usable()) == 3)
        failure = await refusal(cluster.search(request()))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "3 shards" in failure.details()
        assert not (await cluster.stub.ListIndexes(pb.ListIndexesRequest())).indexes
        told = await cluster.admin.GetTopology(admin_pb2.GetTopologyRequest())
        assert len(told.indexes[0].shards) == 3


async def test_a_changed_topology_is_picked_up(tmp_path):
    """A replica moves to a new address: the old one is let go, and no query fails meanwhile."""
    async with running(tmp_path, n_replicas=2) as cluster:
        done = False

        async def client() -> None:
            while not done:
                assert (await cluster.search(request())).coverage == 1.0

        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        kept = [[replicas[0].address] for replicas in cluster.shards]
        cluster.write_topology(kept)
        await eventually(lambda: cluster.usable() == [[True], [True]])
        calls = cluster.shards[0][1].script.n_searches
        await cluster.search(request())
        done = True
        await asyncio.gather(*clients)
        assert cluster.shards[0][1].script.n_searches <= calls + 4
        cluster.write_topology()
        await eventually(lambda: cluster.usable() == [[True, True], [True, True]])


async def test_a_query_under_way_survives_its_replicas_removal(tmp_path):
    """The connection of a replica that leaves the topology closes after its last call."""
    async with running(tmp_path, n_shards=1, n_replicas=2) as cluster:
        scripts = [replica.script for replica in cluster.replicas]
        for script in scripts:
            script.gate.clear()
        under_way = [asyncio.ensure_future(cluster.search(request())) for _ in range(8)]
        await eventually(lambda: all(script.n_under_way for script in scripts))
        cluster.write_topology([[cluster.shards[0][0].address]])
        await eventually(lambda: cluster.usable() == [[True]])
        for script in scripts:
            script.gate.set()
        for answer in await asyncio.gather(*under_way):
            assert answer.coverage == 1.0


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b'{"format": 2}', b""])
async def test_a_broken_topology_file_changes_nothing(tmp_path, garbage):
    """The router serves on with what it had, and takes the next good file."""
    async with running(tmp_path) as cluster:
        cluster.topology.write_bytes(garbage)
        await asyncio.sleep(0.4)  # longer than the router waits between looks
        assert (await cluster.search(request())).coverage == 1.0
        cluster.topology.unlink()
        await asyncio.sleep(0.3)
        cluster.write_topology([[cluster.shards[0][0].address], []])
        await eventually(lambda: cluster.usable() == [[True], []])
        check_partial(cluster, await cluster.search(request(min_coverage=0.2)), pb.OUTCOME_DOWN)


async def test_a_shard_that_tells_nonsense_of_itself_is_left_out(tmp_path):
    """Whatever GetShard or GetEncoder does, the router goes on."""
    async with running(tmp_path, n_replicas=2) as cluster:
        broken = cluster.shards[0][0]

        async def nonsense(request, context):
            raise ValueError("broken beyond our errors")

        broken.GetShard = nonsense
        cluster.encoders[0].GetEncoder = nonsense
        for process in (broken, cluster.encoders[0]):
            await process.stop()
            await process.start()
        await eventually(lambda: cluster.usable()[0] == [False, True])
        assert (await cluster.search(request())).coverage == 1.0
