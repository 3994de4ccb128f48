"""Announce and a router that learns by it who serves what: scripted shards, real sockets."""

import asyncio
import time

import grpc
import pytest
from fakes.asking import refusal, request
from fakes.cluster import Cluster, eventually, running, text_request

from router.announcements import checked_address
from router.lease_source import LeaseSource
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.rpc.status import error_of

FAST = 5.0
"""Leases are this much shorter here than they say."""


def leases() -> LeaseSource:
    return LeaseSource(clock=lambda: FAST * time.monotonic())


def of_shard(cluster: Cluster, shard: int, replica: int = 0, **more: object) -> pb.AnnounceRequest:
    role = {"index": "books", "shard": shard, "n_shards": len(cluster.shards),
            "version": cluster.version, **more}  # fmt: skip
    return pb.AnnounceRequest(address=cluster.shards[shard][replica].address, shard=role)


def everybody(cluster: Cluster) -> list[pb.AnnounceRequest]:
    shards = [
        of_shard(cluster, shard, replica)
        for shard, replicas in enumerate(cluster.shards)
        for replica in range(len(replicas))
    ]
    return shards + [pb.AnnounceRequest(address=e.address, encoder={}) for e in cluster.encoders]


async def announce(cluster: Cluster, *requests: pb.AnnounceRequest) -> None:
    for each in requests or everybody(cluster):
        await cluster.admin.Announce(each, timeout=60)


async def code_of(call) -> grpc.StatusCode:
    return (await refusal(call)).code()


async def test_a_router_learns_by_announcements_alone(tmp_path):
    """Nothing is there, a part, everything: UNAVAILABLE until then, never "no such index"."""
    async with running(tmp_path, leases=leases()) as cluster:
        ready = asyncio.ensure_future(cluster.registry.ready())
        for index in ("", "books"):
            failure = await refusal(cluster.search(request(index=index)))
            assert failure.code() is grpc.StatusCode.UNAVAILABLE
            assert error_of(failure).reason == "STARTING"
        await announce(cluster, of_shard(cluster, 0))
        assert cluster.usable()[1:] == [[]]
        assert await code_of(cluster.search(request(index="films"))) is grpc.StatusCode.UNAVAILABLE
        assert not ready.done()
        await announce(cluster)
        await ready
        assert (await cluster.search(request())).coverage == 1.0
        assert await code_of(cluster.search(request(index="films"))) is grpc.StatusCode.NOT_FOUND


async def test_who_is_not_announced_any_more_is_let_go(tmp_path):
    """One of two replicas falls silent: the topology shows it gone, and no query fails."""
    async with running(tmp_path, n_replicas=2, leases=leases()) as cluster:
        await announce(cluster)
        await cluster.registry.ready()
        silent = cluster.shards[0][1].address
        others = [r for r in everybody(cluster) if r.address != silent]
        end_s = time.monotonic() + 60
        while sum(map(len, cluster.usable())) == 4:
            assert time.monotonic() < end_s, "it was never let go"
            await announce(cluster, *others)
            assert (await cluster.search(request())).coverage == 1.0
        told = await cluster.admin.GetTopology(pb.GetTopologyRequest())
        named = [r.address for s in told.indexes[0].shards for r in s.replicas]
        assert sorted(named) == sorted(o.address for o in others if o.HasField("shard"))


async def test_a_goodbye_is_heeded_before_it_is_answered(tmp_path):
    """Whoever stops once its goodbye was answered gets no new query."""
    async with running(tmp_path, n_shards=1, n_replicas=2, leases=leases()) as cluster:
        await announce(cluster)
        await cluster.registry.ready()
        leaving = cluster.shards[0][0]
        await announce(cluster, pb.AnnounceRequest(address=leaving.address, leaving=True))
        n_searches = leaving.script.n_searches
        for _ in range(20):
            assert (await cluster.search(request())).coverage == 1.0
        assert leaving.script.n_searches == n_searches


async def test_a_search_that_waits_for_its_vector_asks_nobody_who_has_left(tmp_path):
    """It took the topology before the goodbye, and asks a shard after it."""
    async with running(tmp_path, n_shards=1, n_replicas=2, leases=leases()) as cluster:
        await announce(cluster)
        await cluster.registry.ready()
        await cluster.search(text_request("a"))
        cluster.encoders[0].gate.clear()
        waiting = [asyncio.ensure_future(cluster.search(text_request("b"))) for _ in range(8)]
        await eventually(lambda: cluster.admission.n_queries == 8)
        leaving = cluster.shards[0][0]
        await announce(cluster, pb.AnnounceRequest(address=leaving.address, leaving=True))
        n_searches = leaving.script.n_searches
        cluster.encoders[0].gate.set()
        assert all(answer.coverage == 1.0 for answer in await asyncio.gather(*waiting))
        assert leaving.script.n_searches == n_searches


async def test_the_answer_says_when_to_come_again(tmp_path):
    """A third of the lease, and a second at most."""
    async with running(tmp_path, leases=leases()) as cluster:
        for lease_ms, renew_ms in ((None, 1_000), (60_000, 1_000), (900, 300), (100, 33)):
            asked = of_shard(cluster, 0)
            if lease_ms is not None:
                asked.lease_ms = lease_ms
            assert (await cluster.admin.Announce(asked)).renew_ms == renew_ms


async def test_a_router_that_missed_a_reload_takes_the_version_that_all_agree_on(tmp_path):
    """Not on one's word, and not before its replicas have it open."""
    async with running(tmp_path, leases=leases()) as cluster:
        await announce(cluster)
        await cluster.registry.ready()
        await announce(cluster, of_shard(cluster, 0, version=2))
        assert (await cluster.search(request())).version == 1
        await announce(cluster, of_shard(cluster, 1, version=2))
        assert (await cluster.search(request())).version == 1  # agreed, and open nowhere
        for replica in cluster.replicas:
            replica.version = 2
        replicas = [r for rs in cluster.registry.served.indexes["books"].shards for r in rs]
        await eventually(lambda: all(set(r.versions) == {2} for r in replicas))
        await announce(cluster, of_shard(cluster, 1, version=2))
        assert (await cluster.search(request())).version == 2


async def test_a_reload_moves_what_is_announced(tmp_path):
    """The version is kept in memory, and late announcements of the old one don't undo it."""
    async with running(tmp_path, leases=leases()) as cluster:
        await announce(cluster)
        await cluster.registry.ready()
        await cluster.admin.ReloadIndex(pb.ReloadIndexRequest(index="books", version=2))
        await announce(cluster)
        assert (await cluster.search(request())).version == 2
        told = await cluster.admin.GetTopology(pb.GetTopologyRequest())
        assert told.indexes[0].version == 2


WRONG = {
    "address": pb.AnnounceRequest(address="nowhere", encoder={}),
    "role": pb.AnnounceRequest(address="a:1"),
    "lease_ms": pb.AnnounceRequest(address="a:1", encoder={}, lease_ms=99),
    "shard.index": pb.AnnounceRequest(address="a:1", shard={"n_shards": 1, "version": 1}),
    "shard.n_shards": pb.AnnounceRequest(address="a:1", shard={"index": "books", "version": 1}),
    "shard.shard": pb.AnnounceRequest(
        address="a:1", shard={"index": "books", "shard": 2, "n_shards": 2, "version": 1}
    ),
    "shard.version": pb.AnnounceRequest(address="a:1", shard={"index": "books", "n_shards": 1}),
    "encoder.question_fingerprint": pb.AnnounceRequest(
        address="a:1", encoder={"question_fingerprint": "a" * 129}
    ),
}


async def test_what_is_wrong_is_named(tmp_path):
    """INVALID_ARGUMENT with the field, and nothing of it is believed."""
    async with running(tmp_path, leases=leases()) as cluster:
        for field, wrong in WRONG.items():
            error = error_of(await refusal(cluster.admin.Announce(wrong)))
            assert isinstance(error, InvalidArgumentError)
            assert error.field == field
        many = pb.AnnounceRequest(address="ipv4:10.0.0.1:1,10.0.0.2:1", encoder={})
        assert await code_of(cluster.admin.Announce(many)) is grpc.StatusCode.INVALID_ARGUMENT
        assert not (await cluster.admin.GetTopology(pb.GetTopologyRequest())).encoders


async def test_shards_that_do_not_fit_what_is_served_are_refused(tmp_path):
    """Another number of shards than the index has here is FAILED_PRECONDITION."""
    async with running(tmp_path, leases=leases()) as cluster:
        await announce(cluster)
        failure = await refusal(cluster.admin.Announce(of_shard(cluster, 0, n_shards=3)))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "2 shards here, not 3" in failure.details()


async def test_a_router_with_a_file_believes_nobody(tmp_path):
    """FAILED_PRECONDITION: one source at a time."""
    async with running(tmp_path) as cluster:
        code = await code_of(cluster.admin.Announce(of_shard(cluster, 0)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_token_is_announced_away_by_nobody():
    """An address to which this router's token would go in plaintext is refused as an argument."""
    with pytest.raises(InvalidArgumentError, match="plaintext") as caught:
        checked_address("10.0.0.1:5001", Credentials(token="secret"))
    assert caught.value.field == "address"
    for address in ("dns:///10.0.0.1:1?/127.0.0.1:1", "dns://10.0.0.1/localhost:1"):
        with pytest.raises(InvalidArgumentError):
            checked_address(address, Credentials(token="secret"))
    assert checked_address("127.0.0.1:5001", Credentials(token="secret")) == "127.0.0.1:5001"
