"""What `shoal doctor` asks of a cluster: a real router on real sockets, with scripted replicas."""

import asyncio

import numpy as np
import pytest
from fakes.cluster import running
from fakes.corpus import DIM, vector_of
from fakes.encoder import FINGERPRINT

from deploy.doctor.facts import cluster as facts
from deploy.doctor.facts.cluster import read_cluster, read_target
from deploy.doctor.facts.encoder import read_encoders
from deploy.state import ClusterState
from shoal import __version__
from shoal.contract import EncoderContract, TowerContract
from shoal.credentials import NO_CREDENTIALS
from shoal.errors import OverloadedError

PROBES = ("first probe", "second probe")


def _recorded(fingerprint=FINGERPRINT):
    tower = TowerContract(
        fingerprint=fingerprint, dim=DIM, max_tokens=128, pooling="mean", normalized=True,
        probe_texts=PROBES,
        probe_vectors=tuple(tuple(vector_of(text, DIM).tolist()) for text in PROBES),
    )  # fmt: skip
    return EncoderContract(model="stub", question=tower, passage=tower)


async def _ask(encoder, recorded):
    (told,) = await asyncio.to_thread(read_encoders, (encoder.address,), recorded, NO_CREDENTIALS)
    return told


async def test_a_routers_view_is_read_with_each_replicas_release(tmp_path, monkeypatch):
    """What the router knows, and what each replica says of itself, in one look."""
    monkeypatch.setattr(facts, "_TIMEOUT_S", 30.0)  # 2 s are for machines with nothing else to do
    async with running(tmp_path, n_shards=2, n_replicas=2) as cluster:
        seen = await asyncio.to_thread(read_target, cluster.address, NO_CREDENTIALS)
    assert (seen.index, seen.version, seen.n_shards, seen.coverage) == ("books", 1, 2, 1.0)
    assert seen.router_release == __version__
    assert seen.router_why == ""
    parts = [replica.part for replica in seen.replicas]
    assert parts == ["shard 0", "shard 0", "shard 1", "shard 1", "encoder"]
    assert {replica.state for replica in seen.replicas} == {"HEALTHY"}


async def test_a_router_that_is_not_there_is_a_fact(dead_address):
    """The rest of the machine is looked at all the same."""
    seen = await asyncio.to_thread(read_target, dead_address, NO_CREDENTIALS)
    assert seen.router_why
    assert seen.replicas == ()


async def test_the_encoder_that_built_the_index_is_proved_by_its_probes(tmp_path):
    """It encodes the recorded texts now, whatever it says of itself."""
    async with running(tmp_path, n_shards=1) as cluster:
        told = await _ask(cluster.encoders[0], _recorded())
    assert (told.fault, told.why, told.n_probes) == ("", "", 2)
    assert told.lowest_cosine == pytest.approx(1.0)


async def test_another_encoder_is_told_by_its_fingerprint_and_a_changed_one_by_its_vectors(
    tmp_path,
):
    """Fault 11: of the same dimension, without an error, and with worthless answers."""
    async with running(tmp_path, n_shards=1) as cluster:
        (encoder,) = cluster.encoders
        other = await _ask(encoder, _recorded("a" * 64))
        encoder.drift = 1.0
        changed = await _ask(encoder, _recorded())
    assert "aaaaaaaaaaaa" in other.fault
    assert "have a cosine of" in changed.fault
    assert np.isfinite(changed.lowest_cosine)


async def test_an_encoder_that_refuses_is_told_with_its_reason(tmp_path):
    """Overload is no proof of anything."""
    async with running(tmp_path, n_shards=1) as cluster:
        cluster.encoders[0].raises = OverloadedError("full", retry_after_s=1.0)
        told = await _ask(cluster.encoders[0], _recorded())
    assert (told.fault, told.why) == ("", "full")


def test_a_dead_launcher_is_not_asked():
    """What it left in the state folder says where it was, and no more."""
    state = ClusterState(
        name="gone", pid=1, started=-1, phase="ready", target="127.0.0.1:1", index_dir="/i",
        index="x", version=1, processes=(),
    )  # fmt: skip
    seen = read_cluster(state, NO_CREDENTIALS)
    assert (seen.name, seen.running) == ("gone", False)
