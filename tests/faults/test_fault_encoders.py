"""Encoders that die, hang, or are not the index's: text suffers, vectors don't."""

import asyncio
import time

import pytest
from faults.load import Run, asking, quantile_s, requests_of, under_load, until

from shoal.bench.target import OK

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Both:
    """Asks by text and by vector in turn, and keeps the two apart."""

    def __init__(self, ask_text, ask_vector):
        self._asks = (ask_text, ask_vector)

    async def __call__(self, i, timeout_s):
        return await self._asks[i % 2](i, timeout_s)

    @staticmethod
    def texts(calls):
        return [seen for seen in calls if seen.number % 2 == 0]

    @staticmethod
    def vectors(calls):
        return [seen for seen in calls if seen.number % 2 == 1]


async def test_without_an_encoder_vectors_are_searched(mini, oracle, texts, record):
    """Fault 9: the encoder is killed: text is refused at once, vectors are searched on."""
    router = mini.router(1)
    by_text, by_vector = requests_of(oracle, texts), requests_of(oracle)
    async with asking(router, by_text) as ask_text, asking(router, by_vector) as ask_vector:
        for i in range(8):
            code, response, why = await ask_text(i, 30.0)
            assert code == OK, why
            assert not (why := oracle.fault(response, [i], 10)), why
        mini.encoder.kill()
        refused_s = []
        for i in range(20):
            begun_s = time.perf_counter()
            code, _, _ = await ask_text(i, 30.0)
            refused_s.append(time.perf_counter() - begun_s)
            assert code == "UNAVAILABLE"
            code, response, why = await ask_vector(i, 30.0)
            assert code == OK, why
            assert not (why := oracle.fault(response, [i], 10)), why
        await asyncio.to_thread(mini.started, mini.encoder)
        begun_s = time.monotonic()
        while (await ask_text(0, 30.0))[0] != OK:
            assert time.monotonic() < begun_s + 60, "text is never searched again"
            await asyncio.sleep(0.01)
        back_s = time.monotonic() - begun_s
    record.exactly("text without an encoder", "UNAVAILABLE", "UNAVAILABLE")
    record.time("the slowest refusal of a text", 0.2, max(refused_s))
    record.exactly("vector searches that failed", 0, 0)
    record.time("text is searched after the encoder's return", 2.0, back_s)


@pytest.mark.faults
async def test_an_encoder_killed_under_load(mini, oracle, texts, rate, record):
    """Fault 9 (under load): the encoder is killed for 3 s while texts and vectors are asked."""
    router = mini.router(1)

    async def kill_it(run: Run):
        mini.encoder.kill()
        await asyncio.sleep(3.0)
        await asyncio.to_thread(mini.started, mini.encoder)

    by_text, by_vector = requests_of(oracle, texts), requests_of(oracle)
    async with asking(router, by_text) as ask_text, asking(router, by_vector) as ask_vector:
        run = await under_load(Both(ask_text, ask_vector), oracle, kill_it, rate=rate)
    run.check()
    failed = [s for s in Both.vectors(run.seen) if s.code != OK]
    record.at_most(f"failed of {len(Both.vectors(run.seen))} vector searches", 0, len(failed))
    refused = [s for s in Both.texts(run.seen) if s.code != OK]
    record.exactly("codes of refused texts", {"UNAVAILABLE"}, {s.code for s in refused})
    record.time("p99 of refusals", 0.2, quantile_s(refused, 0.99))
    last_s = max(s.due_s for s in refused)
    record.time("text is searched after the return", 2.0, max(0.0, last_s - run.healed_s))


@pytest.mark.faults
async def test_a_hanging_encoder_holds_up_no_vectors(mini, oracle, texts, rate, record):
    """Fault 10: the encoder is stopped for 5 s."""
    router = mini.router(1)

    async def stop_it(run: Run):
        mini.encoder.stop()
        await asyncio.sleep(5.0)
        mini.encoder.cont()

    by_text, by_vector = requests_of(oracle, texts), requests_of(oracle)
    async with asking(router, by_text) as ask_text, asking(router, by_vector) as ask_vector:
        run = await under_load(
            Both(ask_text, ask_vector), oracle, stop_it, rate=rate, timeout_s=1.0
        )
    run.check()
    failed = [s for s in Both.vectors(run.seen) if s.code != OK]
    record.at_most(f"failed of {len(Both.vectors(run.seen))} vector searches", 0, len(failed))
    codes = {s.code for s in Both.texts(run.seen)} - {OK}
    record.only(
        "texts meanwhile", {"DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}, codes
    )
    vectors = Both.vectors(run.due(run.fault_s, run.healed_s))
    record.time("p99 of vectors meanwhile", 1.2 * run.base_s, quantile_s(vectors, 0.99))
    record.time("the latest answer after its deadline", 0.05, run.overtime_s)


LIARS = {
    "another model": ("--fingerprint", "6" * 64),
    "another dimension": ("--dim", "32"),
    "vectors of NaN": ("--nan",),
}


@pytest.mark.faults
@pytest.mark.parametrize("lie", LIARS)
async def test_an_encoder_that_is_not_the_indexes(mini, oracle, texts, record, lie):
    """Fault 11: the encoder has another model, another dimension, or answers NaN."""
    mini.heal(1)
    liar = mini.other(f"liar-{len(lie)}", "faults.stub_encoder", *LIARS[lie])
    router = await asyncio.to_thread(
        mini.router, 1, instead={mini.encoder.address: liar.address}, whole=False
    )
    by_text, by_vector = requests_of(oracle, texts), requests_of(oracle)
    async with asking(router, by_text) as ask_text, asking(router, by_vector) as ask_vector:
        await until(lambda: len(router.replicas()) == 4, 10, "the router knows its shards")
        codes = [(await ask_text(i, 5.0))[0] for i in range(20)]
        good = [await ask_vector(i, 5.0) for i in range(20)]
    for i, (code, response, why) in enumerate(good):
        assert code == OK, why
        assert not (why := oracle.fault(response, [i], 10)), why
    record.exactly(f"text by {lie}", {"FAILED_PRECONDITION"}, set(codes))
    record.exactly("vector searches that failed", 0, sum(code != OK for code, _, _ in good))
