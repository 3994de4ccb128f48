"""The queue before a replica: who rides with whom, and when they leave."""

import asyncio
from itertools import pairwise

import pytest
from fakes.lane import Line, line, turns

from router import batching, lane
from router.lane import LANDING, MAX_IN_FLIGHT
from shoal.errors import UnavailableError


async def test_a_lone_job_leaves_at_once():
    """Two turns of the loop after it came, its call is under way; no delay, no timer."""
    async with line() as one:
        answer = one.submit("x")
        assert (one.lane.n_waiting, one.lane.load) == (1, 1)
        await turns(2)
        assert one.calls == [["x"]]
        assert (one.lane.n_waiting, one.lane.in_flight, one.lane.load) == (0, 1, 1)
        one.end(0)
        assert await answer == "x!"


async def test_jobs_of_one_turn_travel_together():
    """What is submitted before the loop goes round is one call."""
    async with line() as one:
        answers = [one.submit(name) for name in "abc"]
        await turns()
        assert one.calls == [["a", "b", "c"]]
        one.end(0)
        assert await asyncio.gather(*answers) == ["a!", "b!", "c!"]
        assert one.sizes == [3]


async def test_few_answers_come_in_a_turn():
    """Faults 38 and 39: what answers set going must not be one long turn, in which gRPC accepts
    nobody; and those who wait leave before it, so that the shards have work meanwhile.
    """
    async with line() as one:
        answers = [one.submit(str(i)) for i in range(3 * LANDING)]
        await turns()
        answers += [one.submit("next", key="b"), one.submit("waits", key="b", cost=100)]
        await turns()
        one.end(0)
        seen = []
        while not all(answer.done() for answer in answers[: 3 * LANDING]):
            await asyncio.sleep(0)
            seen.append(sum(answer.done() for answer in answers[: 3 * LANDING]))
            if seen[-1]:
                assert one.lane.in_flight == MAX_IN_FLIGHT, "the next left first"
        assert max(b - a for a, b in pairwise([0, *seen])) == LANDING
        assert [await answer for answer in answers[:2]] == ["0!", "1!"]


async def test_the_owners_end_while_answers_land_ends_all():
    """Those who have no answer yet are told; nobody is forgotten."""
    answers = []

    async def end_in_landing():
        async with asyncio.TaskGroup() as tasks:
            made = Line(tasks)
            answers.extend(made.submit(str(i)) for i in range(3 * LANDING))
            await turns()
            made.end(0)
            await answers[0]
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await end_in_landing()
    assert [answer.result() for answer in answers[:LANDING]] == [f"{i}!" for i in range(LANDING)]
    for answer in answers[LANDING:]:
        assert isinstance(answer.exception(), UnavailableError)


async def test_two_calls_at_most_and_the_rest_gathers():
    """While two are under way the others wait, and then go together by key."""
    async with line() as one:
        answers = []
        for number in range(8):
            answers.append(one.submit(f"{number}", key="even" if number % 2 == 0 else "odd"))
            await turns()
        assert one.calls == [["0"], ["1"]]
        assert (one.lane.in_flight, one.lane.n_waiting) == (MAX_IN_FLIGHT, 6)
        one.end(1)
        await turns()
        assert one.calls[2:] == [["2", "4", "6"]]
        one.end(0)
        await turns()
        assert one.calls[3:] == [["3", "5", "7"]]
        one.end(2)
        one.end(3)
        assert await asyncio.gather(*answers) == [f"{n}!" for n in range(8)]


async def test_a_second_call_waits_for_as_many_as_ride_the_first():
    """Three ride: one and two more wait, and three leave; an end lets go whatever waits."""
    async with line() as one:
        answers = [one.submit(f"first {n}") for n in range(3)]
        await turns()
        for number in range(3):
            assert len(one.calls) == 1
            answers.append(one.submit(f"second {number}"))
            await turns()
        assert len(one.calls) == 2
        answers.append(one.submit("lone"))
        one.end(0)
        one.end(1)
        await turns()
        assert one.calls[2] == ["lone"]
        one.end(2)
        await asyncio.gather(*answers)


async def test_another_kind_waits_for_nobody_of_the_first():
    """With a call free, a job of another key leaves though the oldest in the queue waits on."""
    async with line() as one:
        answers = [one.submit(f"{n}", key="a") for n in range(3)]
        await turns()
        answers += [one.submit("small", key="a"), one.submit("bulk", key="b", bulk=True)]
        await turns()
        assert one.calls[1] == ["bulk"]
        one.end(0)
        await turns()
        assert one.calls[2] == ["small"]
        one.end(1)
        one.end(2)
        await asyncio.gather(*answers)


async def test_bulk_leaves_a_call_to_those_who_wait():
    """However much of it there is: a question leaves at once, not when a long call has ended."""
    async with line() as one:
        bulk = [one.submit("b0", key="b0", bulk=True), one.submit("b1", key="b1", bulk=True)]
        await turns()
        assert one.calls == [["b0"]]
        asked = one.submit("asked")
        await turns()
        assert one.calls[1:] == [["asked"]]
        one.end(1)
        assert await asked == "asked!"
        assert one.calls[2:] == [], "the first bulk call is under way still"
        one.end(0)
        await turns()
        assert one.calls[2:] == [["b1"]]
        one.end(2)
        await asyncio.gather(*bulk)


async def test_interactive_goes_before_bulk():
    """A question that came last leaves before the bulk that waits."""
    async with line() as one:
        for number in range(2):
            one.submit(f"first {number}")
            await turns()
        waiting = [one.submit("bulk", bulk=True), one.submit("asked")]
        one.end(0)
        await turns()
        assert one.calls[2] == ["asked"]
        one.end(1)
        await turns()
        assert one.calls[3] == ["bulk"]
        one.end(2)
        one.end(3)
        await asyncio.gather(*waiting)


async def test_a_batch_keeps_the_cost_bound():
    """60 + 60 is over 100: two calls; 300 is over it alone and rides alone."""
    async with line(max_cost=100) as one:
        answers = [one.submit(f"{cost}", cost=cost) for cost in (60, 60, 300)]
        await turns()
        assert one.calls == [["60"], ["60"]]
        one.end(0)
        await turns()
        assert one.calls[2] == ["300"]
        one.end(1)
        one.end(2)
        await asyncio.gather(*answers)


async def test_in_a_crowd_half_of_it_leaves_together(monkeypatch):
    """While many queries are under way the first ones are held, and half of them leave at once."""
    for bound in ("MAX_HOLD_S", "_HOLD_S_PER_QUERY"):  # their moment never ends by itself here
        monkeypatch.setattr(batching, bound, 3_600.0)
    async with line(n_active=64) as one:
        for number in range(31):
            one.submit(f"q{number}")
        await turns()
        assert one.calls == []
        one.submit("q31")
        await turns()
        assert one.sizes == [32]
        one.end(0)


async def test_a_full_call_is_not_held():
    """Two jobs fill a call: it leaves at once, though most of the crowd isn't here yet."""
    async with line(max_cost=10, n_active=1_000) as one:
        for name in "xy":
            one.submit(name, cost=5)
        await turns(2)
        assert one.calls == [["x", "y"]]


async def test_nobody_is_held_for_long(monkeypatch):
    """Where the crowd doesn't come, what waits leaves by itself."""
    held_s: list[float] = []

    def hold_s(n_items, *, waited_s, **known):
        waited_s = waited_s if held_s else 0.0  # however late this machine looks first
        held_s.append(batching.hold_s(n_items, waited_s=waited_s, **known))
        return held_s[-1]

    monkeypatch.setattr(lane, "hold_s", hold_s)
    async with line(n_active=64) as one:
        answer = one.submit("x")
        async with asyncio.timeout(60):
            await one.called.wait()
        assert 0.0 < held_s[0] <= batching.MAX_HOLD_S
        assert held_s[-1] == 0.0
        one.end(0)
        assert await answer == "x!"
