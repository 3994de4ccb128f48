"""A topology that could not be used at once, indexes that come anew, and those that have gone."""

import logging
import time

import pytest
from fakes.asking import refusal, request
from fakes.cluster import Cluster, eventually, running
from fakes.corpus import Corpus
from fakes.encoder import FINGERPRINT
from fakes.shards import FakeShard
from prometheus_client import REGISTRY

from router import shard_client
from router.lease_source import LeaseSource
from shoal.errors import ConfigError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.rpc.status import error_of


def shard_of(cluster: Cluster, shard: int, **more: object) -> pb.AnnounceRequest:
    role = {"index": "books", "shard": shard, "n_shards": 2, "version": 1, **more}
    return pb.AnnounceRequest(address=cluster.shards[shard][0].address, shard=role)


@pytest.fixture
def broken_channels(monkeypatch):
    """Until it is called: the file that peers are known by is half written."""

    def refuse(*_args: object, **_named: object):
        raise ConfigError("TLS authority ca.pem is no PEM file")

    open_channel = shard_client.open_channel
    monkeypatch.setattr(shard_client, "open_channel", refuse)
    return lambda: monkeypatch.setattr(shard_client, "open_channel", open_channel)


async def test_a_replica_that_could_not_be_connected_to_is_by_its_next_word(
    tmp_path, broken_channels
):
    """Its first announcement met a fault of this router's; it may not be lost for that."""
    async with running(tmp_path, leases=LeaseSource()) as cluster:
        failure = await refusal(cluster.admin.Announce(shard_of(cluster, 0)))
        assert "ca.pem" in failure.details()
        broken_channels()
        await cluster.admin.Announce(shard_of(cluster, 0))
        await eventually(lambda: cluster.usable() == [[True], []])


async def test_a_topology_file_is_tried_again(tmp_path, monkeypatch):
    """It was read, but what it names could not be used: nobody will write it again."""
    async with running(tmp_path) as cluster:
        third = FakeShard(cluster.corpus, 0, fingerprint=FINGERPRINT)
        await third.start()
        try:
            with monkeypatch.context() as broken:

                def refuse(*_args: object, **_named: object):
                    raise ConfigError("TLS authority ca.pem is no PEM file")

                broken.setattr(shard_client, "open_channel", refuse)
                (first,), (second,) = cluster.shards
                cluster.write_topology([[first.address, third.address], [second.address]])
                await eventually(lambda: cluster.registry.is_behind)
            await eventually(lambda: cluster.usable() == [[True, True], [True]])
            assert not cluster.registry.is_behind
        finally:
            await third.stop()


async def test_an_index_that_comes_back_with_other_shards_is_searched(tmp_path):
    """Its version has the number that a reload moved to: what was known of it is of another."""
    source = LeaseSource(clock=lambda: 10 * time.monotonic())
    corpus = Corpus(n_shards=3)
    anew = [FakeShard(corpus, shard, version=2) for shard in range(3)]
    async with running(tmp_path, n_encoders=0, leases=source) as cluster:
        for shard in range(2):
            await cluster.admin.Announce(shard_of(cluster, shard))
        await eventually(lambda: cluster.usable() == [[True], [True]])
        await cluster.admin.ReloadIndex(pb.ReloadIndexRequest(index="books", version=2))
        for replicas in cluster.shards:
            leaving = pb.AnnounceRequest(address=replicas[0].address, leaving=True)
            await cluster.admin.Announce(leaving)
        for each in anew:
            await each.start()
            role = {"index": "books", "shard": each.shard, "n_shards": 3, "version": 2}
            await cluster.admin.Announce(pb.AnnounceRequest(address=each.address, shard=role))
        try:
            await eventually(lambda: cluster.usable() == [[True]] * 3)
            await eventually(lambda: not cluster.registry.served.learning)
            answer = await cluster.search(request())
            assert (answer.version, answer.coverage) == (2, 1.0)
        finally:
            for each in anew:
                await each.stop()


async def test_what_a_version_was_is_forgotten_where_all_tell_otherwise(tmp_path):
    """It was built anew under the same number: its replicas say what it is."""
    async with running(tmp_path, n_encoders=0) as cluster:
        await cluster.admin.ReloadIndex(pb.ReloadIndexRequest(index="books", version=2))
        index = cluster.registry.served.indexes["books"]
        cluster.corpus.ids.append("one more")  # every shard tells another next_ordinal
        await eventually(lambda: index.described.next_ordinal == len(cluster.corpus.ids))
        for replica in cluster.replicas:
            await replica.stop()
        await eventually(lambda: not index.there)
        assert index.described is not None


async def test_a_gone_index_has_no_gauges(tmp_path):
    """An alarm on coverage would ring for ever, and the gauge would hold closed connections."""

    def told(metric: str) -> float | None:
        return REGISTRY.get_sample_value(metric, {"index": "books"})

    async with running(tmp_path) as cluster:
        assert told("shoal_coverage_ratio") == 1.0
        assert told("shoal_index_version") == 1.0
        cluster.topology.write_text('{"format": 1, "indexes": []}')
        await eventually(lambda: not cluster.registry.served.indexes)
        assert told("shoal_coverage_ratio") is None
        assert told("shoal_index_version") is None


async def test_a_starting_cluster_is_no_cluster_without_indexes(tmp_path):
    """An encoder is up a minute before the shards have loaded: what is asked for may be coming."""
    source = LeaseSource(clock=lambda: 100 * time.monotonic())
    async with running(tmp_path, leases=source) as cluster:
        encoder = pb.AnnounceRequest(address=cluster.encoders[0].address, encoder={})
        await cluster.admin.Announce(encoder)
        await eventually(lambda: source._table.clock_s > 5.0)
        for index in ("books", ""):
            failure = error_of(await refusal(cluster.search(request(index=index))))
            assert failure.reason == "STARTING"
            assert "no shard server has announced itself" in failure.message


async def test_a_router_that_nobody_reaches_says_so_once(caplog):
    """It was not "just started" a week ago."""
    now_s = [0.0]
    source = LeaseSource(clock=lambda: now_s[0])
    for _ in range(80):
        now_s[0] += 0.5
        source.leave("10.0.0.1:1")  # any look at the table
    assert "no shard server has announced itself" in source.learning
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "are they told this router's address?" in warned[0].getMessage()
