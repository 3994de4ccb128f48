"""The queue with a real tiny model; a gate holds the forward thread where order matters."""

import asyncio
import threading
import time

import numpy as np
import pytest
from prometheus_client import REGISTRY

from encoder_service.batching import Priority
from encoder_service.dispatch import EncodeQueue
from encoder_service.model import load_encoder
from encoder_service.roles import Role
from shoal.errors import DeadlineExceededError, OverloadedError
from shoal.rpc.metrics import PRIORITIES


def refused():
    """Texts that this process has refused as an encoder: interactive ones, and bulk."""
    return tuple(
        REGISTRY.get_sample_value(
            "shoal_refused_total", {"component": "encoder", "priority": priority}
        )
        for priority in PRIORITIES
    )


class GatedEncoder:
    """A real encoder whose passes wait for a gate; `passes` lists the texts' token counts."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.passes = []
        self.failure = None

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def forward(self, tokenized, role, *, one_core=False):
        self.entered.set()
        assert self.gate.wait(100)
        self.passes.append([text.n_tokens for text in tokenized])
        if self.failure:
            raise self.failure
        return self._encoder.forward(tokenized, role)


@pytest.fixture(scope="module")
def encoder(sentence_model):
    return load_encoder(str(sentence_model), device="cpu", backend="torch")


@pytest.fixture
async def gated(encoder):
    return GatedEncoder(encoder)


@pytest.fixture
async def queue(gated):
    queue = EncodeQueue(gated, max_queued_texts=2048, max_batch_tokens=256)
    yield queue
    gated.gate.set()
    await asyncio.to_thread(queue.close)


def ask(queue, texts, *, role=Role.QUERY, priority=Priority.INTERACTIVE, timeout_s=100.0):
    return queue.encode(
        texts, role, titles=None, priority=priority, deadline_s=time.monotonic() + timeout_s
    )


async def until(condition):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


async def test_a_large_call_is_rejoined(queue, gated, encoder, texts):
    """A call of many texts is split over batches and its rows come back in order."""
    many = texts * 60
    encoded = await ask(queue, many)
    expected = encoder.encode(many, Role.QUERY)
    np.testing.assert_allclose(encoded.vectors, expected, atol=1e-5)
    assert len(gated.passes) > 1
    assert encoded.truncated == [t.truncated for t in encoder.tokenize(many, Role.QUERY)]
    assert encoded.forward_ms > 0
    assert encoded.tokenize_ms > 0


async def test_waiting_calls_share_a_pass(queue, gated):
    """What arrives while the thread is busy goes together next; the first waited for nobody."""
    gated.gate.clear()
    first = asyncio.ensure_future(ask(queue, ["a"]))
    assert await asyncio.to_thread(gated.entered.wait, 60)
    rest = [asyncio.ensure_future(ask(queue, [letter])) for letter in "bcdefgh"]
    await until(lambda: len(queue._waiting) == 7)
    gated.gate.set()
    await asyncio.gather(first, *rest)
    assert [len(lengths) for lengths in gated.passes] == [1, 7]


async def test_questions_go_before_bulk(queue, gated):
    """An interactive text overtakes the bulk texts that wait."""
    gated.gate.clear()
    bulk = asyncio.ensure_future(ask(queue, ["bulk text"] * 100, priority=Priority.BULK))
    assert await asyncio.to_thread(gated.entered.wait, 60)
    question = asyncio.ensure_future(ask(queue, ["x"]))
    await until(lambda: any(i.priority is Priority.INTERACTIVE for i in queue._waiting))
    gated.gate.set()
    await asyncio.gather(question, bulk)
    assert len(gated.passes[1]) == 1
    assert len(gated.passes) > 2, "most of the bulk came after it"


async def test_who_left_costs_nothing(queue, gated):
    """A cancelled call's texts are dropped from the queue before a pass."""
    gated.gate.clear()
    first = asyncio.ensure_future(ask(queue, ["a"]))
    assert await asyncio.to_thread(gated.entered.wait, 60)
    leaver = asyncio.ensure_future(ask(queue, ["leaver"] * 5))
    await until(lambda: len(queue._waiting) == 5)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    gated.gate.set()
    await first
    await ask(queue, ["b"])
    assert [len(lengths) for lengths in gated.passes] == [1, 1]


async def test_a_passed_deadline_costs_nothing(queue, gated):
    """An expired call hears so in time, and its texts never reach a pass."""
    gated.gate.clear()
    first = asyncio.ensure_future(ask(queue, ["a"]))
    assert await asyncio.to_thread(gated.entered.wait, 60)
    with pytest.raises(DeadlineExceededError):
        await ask(queue, ["late"], timeout_s=0.05)
    gated.gate.set()
    await first
    with pytest.raises(DeadlineExceededError):
        await ask(queue, ["already late"], timeout_s=-1)
    await ask(queue, ["b"])
    assert [len(lengths) for lengths in gated.passes] == [1, 1]


async def test_too_much_is_refused_and_room_comes_back(queue, gated):
    """Past the limit a call is told when to return; bulk leaves room for questions, and what is
    refused counts by its class.
    """
    before = refused()
    gated.gate.clear()
    bulk = [asyncio.ensure_future(ask(queue, ["t"] * 512, priority=Priority.BULK)) for _ in "123"]
    assert await asyncio.to_thread(gated.entered.wait, 60)
    with pytest.raises(OverloadedError) as refusal:
        await ask(queue, ["t"], priority=Priority.BULK)
    assert 0.05 <= refusal.value.retry_after_s <= 10
    assert refused() == (before[0], before[1] + 1)
    question = asyncio.ensure_future(ask(queue, ["q"] * 512))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await ask(queue, ["q", "r"])
    assert refused() == (before[0] + 2, before[1] + 1)
    gated.gate.set()
    await asyncio.gather(*bulk, question)
    await ask(queue, ["q"])


async def test_a_failed_pass_fails_its_riders_alone(queue, gated):
    """An error in a pass reaches the callers of that batch; the next one is served."""
    gated.failure = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        await ask(queue, ["a"])
    gated.failure = None
    assert (await ask(queue, ["a"])).vectors.shape == (1, 24)


@pytest.mark.parametrize("n_threads", [1, 3])
async def test_passes_side_by_side_answer_the_same(sentence_model, texts, n_threads):
    """On several one-core streams, concurrent calls get the rows that they get alone."""
    encoder = load_encoder(str(sentence_model), device="cpu", n_threads=n_threads)
    assert encoder.n_streams == n_threads
    queue = EncodeQueue(encoder, max_queued_texts=2048)
    calls = [texts[i % 6 :] * (1 + i % 9) for i in range(18)]
    answers = await asyncio.gather(*(ask(queue, call) for call in calls))
    for call, answer in zip(calls, answers, strict=True):
        expected = encoder.encode(call, Role.QUERY)
        np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    await asyncio.to_thread(queue.close)
