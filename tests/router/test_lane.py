"""The queue before a replica: who rides with whom, and that nobody is ever left standing."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest

from router import batching, lane
from router.lane import LANDING, MAX_IN_FLIGHT, Lane
from shoal.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shoal.rpc.deadline import Deadline


class Line:
    """A lane before a scripted call that ends when the test says so."""

    def __init__(self, tasks: asyncio.TaskGroup, max_cost: int = 100, n_active: int = 0) -> None:
        self.called = asyncio.Event()
        self.calls: list[list[str]] = []
        self.timeouts_s: list[float] = []
        self.ends: list[asyncio.Future] = []
        self.sizes: list[int] = []
        self.lane: Lane[str, str] = Lane(
            self._call,
            tasks=tasks,
            max_cost=max_cost,
            on_batch=self.sizes.append,
            n_active=lambda: n_active,
        )

    async def _call(self, payloads: Sequence[str], timeout_s: float, spans) -> list[str]:
        self.calls.append(list(payloads))
        self.called.set()
        self.timeouts_s.append(timeout_s)
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        await end
        return [f"{payload}!" for payload in payloads]

    def submit(self, payload: str, *, key="a", cost=1, bulk=False, within_s=60.0):
        return self.lane.submit(
            payload,
            key=key,
            cost=cost,
            n_items=1,
            is_bulk=bulk,
            deadline=Deadline.after(within_s),
        )

    def end(self, number: int) -> None:
        self.ends[number].set_result(None)


@contextlib.asynccontextmanager
async def line(max_cost: int = 100, n_active: int = 0) -> AsyncIterator[Line]:
    async with asyncio.TaskGroup() as tasks:
        made = Line(tasks, max_cost, n_active)
        yield made
        for end in made.ends:
            if not end.done():
                end.set_result(None)
    assert (made.lane.load, made.lane.in_flight, made.lane.n_waiting) == (0, 0, 0)


async def turns(n: int = 4) -> None:
    """Lets the event loop go round; no time passes."""
    for _ in range(n):
        await asyncio.sleep(0)


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
