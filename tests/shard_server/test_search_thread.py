"""The search thread: bounded, ordered, and done with work that nobody waits for."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from shard_server import search_thread
from shard_server.search_thread import SearchThread, Stopped
from shoal.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shoal.rpc.deadline import Deadline


@pytest.fixture
async def thread():
    thread = SearchThread(max_queued=3, wait_s=lambda: 1.5)
    yield thread
    await thread.close()


class Gate:
    """Work that begins when the thread reaches it and ends when it is opened."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self, is_wanted):
        self.begun.set()
        assert self.opened.wait(100)
        return "gate"


def search(thread, work, seconds=100.0, **kwargs):
    return asyncio.ensure_future(
        thread.search(work, n_queries=1, deadline=Deadline.after(seconds), **kwargs)
    )


async def until(condition):
    deadline = Deadline.after(60)
    while not condition():
        assert not deadline.expired
        await asyncio.sleep(0)


async def held(thread):
    gate = Gate()
    task = search(thread, gate)
    await until(gate.begun.is_set)
    return gate, task


async def test_work_runs_off_the_loop_on_one_thread(thread):
    """faiss would hold up every call of the process on the loop, and a GPU has one owner."""
    names = [await search(thread, lambda _: threading.current_thread().name) for _ in range(3)]
    assert {done.value for done in names} == {"search"}
    assert await thread.own(lambda: threading.current_thread().name) == "search"
    assert all(done.queue_ms >= 0 and done.work_ms >= 0 for done in names)


async def test_past_the_limit_is_overload(thread):
    """Refusing costs nothing; queueing without end costs everybody's deadline."""
    gate, running = await held(thread)
    waiting = [search(thread, lambda _: None) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refusal:
        await search(thread, lambda _: None)
    assert refusal.value.retry_after_s == 1.5, "as long as work waits"
    gate.opened.set()
    await asyncio.gather(running, *waiting)


async def test_bulk_leaves_half_of_the_queue(thread):
    """Whose cost is no bound any more: calls that nobody waits for must not fill the place."""
    gate, running = await held(thread)
    bulk = [search(thread, lambda _: None, bulk=True) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await search(thread, lambda _: None, bulk=True)
    asked = search(thread, lambda _: None)
    gate.opened.set()
    await asyncio.gather(running, *bulk, asked)


async def test_interactive_goes_before_bulk(thread):
    """Somebody waits for the one, nobody for the other."""
    gate, running = await held(thread)
    order = []
    bulk = search(thread, lambda _: order.append("bulk"), bulk=True)
    await asyncio.sleep(0)
    interactive = search(thread, lambda _: order.append("interactive"))
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(running, bulk, interactive)
    assert order == ["interactive", "bulk"]


async def test_the_stages_times_are_those_of_interactive_searches(thread):
    """An alarm on the queue must not ring for bulk, whose place is behind everybody else."""

    def observed(stage):
        return REGISTRY.get_sample_value("shoal_stage_duration_seconds_count", {"stage": stage})

    before = {stage: observed(stage) for stage in ("shard_queue", "shard_search")}
    await search(thread, lambda _: "bulk", bulk=True)
    assert {stage: observed(stage) for stage in before} == before
    await search(thread, lambda _: "interactive")
    assert {stage: observed(stage) for stage in before} == {
        stage: count + 1 for stage, count in before.items()
    }


async def test_bulk_lets_interactive_work_by_between_its_steps(thread, monkeypatch):
    """A million rows of brute force take 50 ms: nobody who waits for an answer waits for them."""
    order, first, clock = [], Gate(), [0.0]
    monkeypatch.setattr(search_thread, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def bulk_work(is_wanted):
        first(is_wanted)
        clock[0] += 1.0
        order.append("bulk begins")
        assert is_wanted()
        clock[0] += 2.0
        order.append("bulk ends")

    def interactive(is_wanted):
        order.append("interactive")
        clock[0] += 5.0
        assert is_wanted()  # bulk never goes before it

    bulk = search(thread, bulk_work, bulk=True)
    await until(first.begun.is_set)
    other = search(thread, interactive)
    more = search(thread, lambda _: order.append("more"), bulk=True)
    await until(lambda: len(thread._interactive) == len(thread._bulk) == 1)
    first.opened.set()
    done = await asyncio.gather(bulk, other, more)
    assert order == ["bulk begins", "interactive", "bulk ends", "more"]
    # what went first is not its own work, by which a share of time is reckoned
    assert [told.work_ms for told in done] == [3_000.0, 5_000.0, 0.0]


async def test_work_past_its_deadline_is_never_begun(thread):
    """The caller is told in time, and the thread drops the work when it comes to it."""
    gate, running = await held(thread)
    begun = []
    with pytest.raises(DeadlineExceededError):
        await search(thread, lambda _: begun.append(1), seconds=0.01)
    gate.opened.set()
    await running
    assert (await search(thread, lambda _: len(begun))).value == 0


async def test_work_whose_caller_left_is_never_begun(thread):
    """A cancelled call costs the thread nothing."""
    gate, running = await held(thread)
    begun = []
    task = search(thread, lambda _: begun.append(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    await running
    assert (await search(thread, lambda _: len(begun))).value == 0


async def test_running_work_can_see_that_its_caller_left(thread):
    """Long work asks between its batches, and stops."""
    begun, seen = threading.Event(), threading.Event()

    def work(is_wanted):
        begun.set()
        while is_wanted():
            pass
        seen.set()
        raise Stopped

    task = search(thread, work)
    await until(begun.is_set)
    task.cancel()
    await until(seen.is_set)


async def test_a_failure_is_its_callers_alone(thread):
    """The thread outlives what it runs."""

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await search(thread, fail)
    assert (await search(thread, lambda _: 1)).value == 1


async def test_closing_finishes_what_runs_and_refuses_the_rest():
    """No caller is left without an answer."""
    thread = SearchThread(max_queued=3)
    gate, running = await held(thread)
    waiting = search(thread, lambda _: None)
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(thread.close())
    await asyncio.sleep(0)
    gate.opened.set()
    await closing
    assert (await running).value == "gate"
    with pytest.raises(UnavailableError):
        await waiting
    with pytest.raises(UnavailableError):
        await search(thread, lambda _: None)
