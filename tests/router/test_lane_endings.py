"""How a ride ends: by its riders' leaving, in time or too late, with its call, lane or owner."""

import asyncio
import random

import pytest
from fakes.lane import Line, line, turns

from router.lane import Lane
from shoal.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shoal.rpc.deadline import Deadline


async def test_one_riders_leaving_leaves_the_others_alone():
    """The call goes on, and the others have their answers."""
    async with line() as one:
        left, stayed = one.submit("left"), one.submit("stayed")
        await turns()
        left.cancel()
        await turns()
        assert not one.ends[0].cancelled()
        one.end(0)
        assert await stayed == "stayed!"


async def test_the_last_riders_leaving_cancels_the_call():
    """Nobody waits for it: its place in the lane is free at once for others."""
    async with line() as one:
        riders = [one.submit("a"), one.submit("b")]
        await turns()
        for rider in riders:
            rider.cancel()
        await turns()
        assert one.ends[0].cancelled()
        assert one.lane.load == 0
        answer = one.submit("next")
        await turns()
        one.end(1)
        assert await answer == "next!"


async def test_leaving_the_queue_costs_nothing():
    """A rider that leaves before its call makes no call and frees its memory at once."""
    async with line() as one:
        for number in range(2):
            one.submit(f"{number}")
            await turns()
        waiting = [one.submit("w", key=str(i)) for i in range(50)]
        for rider in waiting:
            rider.cancel()
        await turns()
        assert one.lane.n_waiting == 0
        one.end(0)
        await turns()
        assert len(one.calls) == 2


async def test_leaving_between_boarding_and_departure_harms_nothing():
    """Cancelled in the very turn in which its call starts."""
    async with line() as one:
        rider = one.submit("x")
        await asyncio.sleep(0)  # boarded; the call's task has not run yet
        rider.cancel()
        await turns()
        assert one.lane.load == 0


async def test_leaving_as_the_answer_arrives_harms_nothing():
    """The reply and the last rider's leaving in one turn: the lane goes on."""
    async with line() as one:
        rider = one.submit("x")
        await turns()
        one.end(0)
        rider.cancel()
        await turns()
        assert one.lane.load == 0
        answer = one.submit("y")
        await turns()
        one.end(1)
        assert await answer == "y!"


async def test_expired_riders_make_no_call():
    """Who comes too late is told so, and costs the replica nothing."""
    async with line() as one:
        answer = one.submit("late", within_s=0.0)
        with pytest.raises(DeadlineExceededError):
            await answer
        assert one.calls == []


async def test_a_call_lasts_until_the_latest_deadline():
    """Riders of a minute and of an hour share a call of an hour."""
    async with line() as one:
        answers = [one.submit("a", within_s=60.0), one.submit("b", within_s=3_600.0)]
        await turns()
        assert 3_500.0 < one.timeouts_s[0] <= 3_600.0
        one.end(0)
        await asyncio.gather(*answers)


@pytest.mark.parametrize("failure", [OverloadedError("full", retry_after_s=1.0), ValueError("bug")])
async def test_a_failed_call_fails_its_riders_alone(failure):
    """Each rider hears of it, and the next call is made."""
    async with line() as one:
        answers = [one.submit("a"), one.submit("b")]
        await turns()
        one.ends[0].set_exception(failure)
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert results == [failure, failure]
        answer = one.submit("c")
        await turns()
        one.end(1)
        assert await answer == "c!"


async def test_a_call_with_too_few_replies_fails_its_riders():
    """A client that answers for fewer than it was asked for is a bug that the lane survives."""
    async with asyncio.TaskGroup() as tasks:

        async def call(payloads, timeout_s, spans):
            return ["one"]

        lane = Lane(call, tasks=tasks, max_cost=9, on_batch=lambda n: None)
        riders = [
            lane.submit(n, key=0, cost=1, n_items=1, is_bulk=False, deadline=Deadline.after(9))
            for n in range(2)
        ]
        results = await asyncio.gather(*riders, return_exceptions=True)
        assert isinstance(results[1], ValueError)


async def test_a_call_cut_by_its_channel_is_unavailable():
    """Closing a channel cancels its calls from within: the riders may try another replica."""
    async with line() as one:
        answer = one.submit("x")
        await turns()
        one.ends[0].cancel()
        with pytest.raises(UnavailableError):
            await answer
        answer = one.submit("y")
        await turns()
        one.end(1)
        assert await answer == "y!"


async def test_a_closed_lane_turns_everybody_away():
    """What waits and what comes is UNAVAILABLE; what rides may arrive."""
    async with line() as one:
        riding = []
        for number in range(2):
            riding.append(one.submit(f"{number}"))
            await turns()
        waiting = one.submit("w")
        one.lane.close()
        for turned_away in (waiting, one.submit("x")):
            with pytest.raises(UnavailableError):
                await turned_away
        one.end(0)
        one.end(1)
        assert await asyncio.gather(*riding) == ["0!", "1!"]


async def test_the_owners_end_ends_riders_too():
    """When the task group is cancelled, no rider's future is left pending."""
    answers: list[asyncio.Future] = []

    async def own() -> None:
        async with asyncio.TaskGroup() as tasks:
            one = Line(tasks)
            for number in range(3):
                answers.append(one.submit(f"{number}", key=number))
                await turns()
            await asyncio.Event().wait()

    owner = asyncio.ensure_future(own())
    await turns(20)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)


async def test_a_storm_leaves_nothing_behind():
    """Thousands of riders that come, leave, fail and expire: the lane ends empty."""
    chance = random.Random(4)
    async with asyncio.TaskGroup() as tasks:

        async def call(payloads, timeout_s, spans):
            await turns(chance.randrange(4))
            if chance.random() < 0.1:
                raise UnavailableError("gone")
            return payloads

        lane: Lane[int, int] = Lane(call, tasks=tasks, max_cost=20, on_batch=lambda n: None)
        riders = []
        for number in range(3_000):
            riders.append(
                lane.submit(
                    number,
                    key=number % 3,
                    cost=chance.randrange(1, 9),
                    n_items=1,
                    is_bulk=chance.random() < 0.3,
                    deadline=Deadline.after(60 if chance.random() < 0.95 else 0),
                )
            )
            if chance.random() < 0.3:
                chance.choice(riders).cancel()
            if chance.random() < 0.2:
                await turns(1)
        results = await asyncio.gather(*riders, return_exceptions=True)
    assert len(results) == 3_000
    assert all(r == n for n, r in enumerate(results) if not isinstance(r, BaseException))
    assert lane.load == lane.in_flight == lane.n_waiting == 0
