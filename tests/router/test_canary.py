"""An encoder with the right fingerprint and other vectors is found out while serving."""

import grpc
import numpy as np
from fakes.asking import refusal, request
from fakes.cluster import eventually, hits_of, running, text_request
from fakes.corpus import vector_of

from router.canary import ProbeBook, Verdict
from shoal.contract import EncoderContract, TowerContract
from shoal.errors import DeadlineExceededError, OverloadedError

PROBES = ("first probe", "second probe")


def settings(**changes: object) -> dict[str, object]:
    return {"probe_texts": PROBES, "canary_s": 0.05} | changes


async def test_another_function_under_the_same_fingerprint_is_left_out(tmp_path):
    """A swapped model of the same dimension that lies about its fingerprint: text is refused with
    the reason, vectors are answered, and the right model is taken back.
    """
    async with running(tmp_path, **settings()) as cluster:
        (encoder,), (replica,) = cluster.encoders, cluster.registry.served.encoders
        assert (await cluster.search(text_request("a"))).coverage == 1.0
        encoder.drift = 3.0
        await eventually(lambda: not replica.usable)
        assert "fails the canary: its probe vectors have a cosine of" in replica.health.detail
        failure = await refusal(cluster.search(text_request("a")))
        assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "cosine" in failure.details()
        assert encoder.address in failure.details()
        assert (await cluster.search(request())).coverage == 1.0
        encoder.drift = 0.0
        await eventually(lambda: replica.usable)
        answer = await cluster.search(text_request("a", k=3))
        assert hits_of(answer.results[0]) == cluster.corpus.search(vector_of("a"), 3)


async def test_a_good_encoder_answers_beside_a_bad_one(tmp_path):
    """One of two drifts: every question goes to the other."""
    async with running(tmp_path, n_encoders=2, **settings()) as cluster:
        cluster.encoders[0].drift = 3.0
        served = cluster.registry.served
        await eventually(lambda: not served.encoders[0].usable)
        for text in "abcdef":
            answer = await cluster.search(text_request(text, k=3))
            assert hits_of(answer.results[0]) == cluster.corpus.search(vector_of(text), 3)


async def test_a_full_encoder_is_not_judged(tmp_path):
    """The canary waits behind people: where it is turned away, nothing is proved."""
    async with running(tmp_path, **settings()) as cluster:
        replica = cluster.registry.served.encoders[0]
        cluster.encoders[0].raises = OverloadedError("full", retry_after_s=0.1)
        n_calls = cluster.encoders[0].n_calls
        await eventually(lambda: cluster.encoders[0].n_calls >= n_calls + 3)
        assert replica.usable


async def test_shards_tell_their_probes_once(tmp_path):
    """Each shard is asked at most once, and the canary keeps its pace, however often one checks."""
    async with running(tmp_path, n_replicas=2, **settings(canary_s=60.0)) as cluster:
        encoder = cluster.encoders[0]
        await eventually(lambda: encoder.n_calls == 1)
        seen = cluster.replicas[0].n_descriptions
        await eventually(lambda: cluster.replicas[0].n_descriptions >= seen + 5)
        assert encoder.n_calls == 1
        assert all(replica.n_probe_requests <= 1 for replica in cluster.replicas)


async def test_a_shard_of_the_release_before_tells_none(tmp_path):
    """It refuses the question; it is asked no more, stays in use, and there is no canary."""
    async with running(tmp_path, n_shards=1, **settings(probe_texts=())) as cluster:
        (shard,) = cluster.replicas
        await eventually(lambda: shard.n_descriptions >= 5)
        assert shard.n_probe_requests == 1
        assert cluster.encoders[0].n_calls == 0
        assert (await cluster.search(text_request("a"))).coverage == 1.0


async def test_a_busy_shard_is_asked_for_its_probes_again(tmp_path):
    """One slow answer must not switch the canary off for good."""
    async with running(tmp_path, n_shards=1, **settings()) as cluster:
        fake = cluster.replicas[0]
        replica = cluster.registry.served.indexes["books"].shards[0][0]
        fake.raises_on_probes = [
            DeadlineExceededError("late"),
            OverloadedError("", retry_after_s=1),
        ]
        for known in (replica._probes._known, replica._asked_for_probes):
            known.clear()  # as at the start
        await eventually(lambda: replica._probes._known)
        assert not fake.raises_on_probes
        assert replica.usable


def test_the_first_probes_stay():
    """Probes are kept by fingerprint; a contract without them teaches nothing."""
    tower = TowerContract(
        fingerprint="f", dim=2, max_tokens=8, pooling="mean", normalized=True,
        probe_texts=("x",), probe_vectors=((1.0, 0.0),),
    )  # fmt: skip
    bare = tower.model_copy(update={"fingerprint": "g", "probe_texts": (), "probe_vectors": ()})
    book = ProbeBook()
    for question in (tower, bare):
        book.learn(EncoderContract(model="m", question=question, passage=bare))
    assert book.get("g") is None
    probes = book.get("f")
    assert not probes.fault(np.array([[2.0, 0.0]], dtype=np.float32))
    assert probes.fault(np.array([[1.0, 1.0]], dtype=np.float32))


def test_a_verdict_stands_for_one_tower_and_for_a_while():
    """Another fingerprint, or enough time, and the canary is due again."""
    verdict = Verdict(fingerprint="f", at_s=100.0, fault="")
    assert verdict.stands("f", 129.0, 30.0)
    assert not verdict.stands("f", 130.0, 30.0)
    assert not verdict.stands("g", 101.0, 30.0)
