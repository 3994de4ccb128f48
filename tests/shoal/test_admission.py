"""Admission as a pure rule, and against a simulated server with a known capacity as the oracle."""

import dataclasses
import heapq
import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.admission import (
    FORGET_S,
    KNOWN_AFTER_S,
    LEAST_RETRY_S,
    MOST_RETRY_S,
    Gate,
    Limits,
    Load,
    advanced,
    credited,
    entered,
    refusal_s,
)
from shoal.errors import DeadlineExceededError, OverloadedError
from shoal.retry import retry_delay_s

LIMITS = Limits(blind_cost=512, free_cost=64, wait_s=0.5, bulk_wait_s=5.0)


class Server:
    """One server that does `rate` cost a second, interactive before bulk, behind a gate."""

    def __init__(self, rate: float, limits: Limits = LIMITS) -> None:
        self.now_s = 0.0
        self.rate = rate
        self.limits = limits
        self.gate = Gate(limits, what="here", clock=lambda: self.now_s)
        self.queues: dict[bool, list[tuple[float, int, float]]] = {False: [], True: []}
        self.free_at_s = 0.0
        self.running: tuple[float, int, bool, float, float] | None = None
        self.ended: list[tuple[float, float, bool, bool]] = []  # arrived, ended, is_bulk, in time
        self.retries_s: list[float] = []
        self.n = Counter[str]()

    def run_until(self, until_s: float) -> None:
        while True:
            if self.running is None and not self._start():
                break
            end_s, cost, is_bulk, arrived_s, deadline_s = self.running
            if end_s > until_s:
                break
            self.now_s = end_s
            in_time = end_s <= deadline_s
            self.gate.leave(cost, is_bulk=is_bulk, is_done=in_time)
            self.ended.append((arrived_s, end_s, is_bulk, in_time))
            self.running = None
        self.now_s = until_s

    def _start(self) -> bool:
        for is_bulk in (False, True):
            while self.queues[is_bulk]:
                arrived_s, cost, deadline_s = heapq.heappop(self.queues[is_bulk])
                if deadline_s <= self.now_s:  # dropped before it costs
                    self.gate.leave(cost, is_bulk=is_bulk, is_done=False)
                    continue
                begun_s = max(self.now_s, arrived_s)
                self.running = (begun_s + cost / self.rate, cost, is_bulk, arrived_s, deadline_s)
                return True
        return False

    def arrive(self, at_s: float, cost: int, *, is_bulk: bool = False, timeout_s=2.0) -> None:
        self.run_until(at_s)
        kind = "bulk" if is_bulk else "interactive"
        try:
            self.gate.enter(cost, is_bulk=is_bulk, deadline_s=at_s + timeout_s)
        except OverloadedError as refused:
            self.retries_s.append(refused.retry_after_s)
            self.n[f"{kind} refused"] += 1
            return
        self.n[f"{kind} admitted"] += 1
        heapq.heappush(self.queues[is_bulk], (at_s, cost, at_s + timeout_s))
        self.run_until(at_s)

    def goodput(self, from_s: float, to_s: float, *, is_bulk: bool = False) -> int:
        return sum(
            in_time and bulk is is_bulk and from_s <= end_s < to_s
            for _, end_s, bulk, in_time in self.ended
        )

    def waits(self, from_s: float, *, is_bulk: bool = False) -> list[float]:
        return [end - at for at, end, bulk, _ in self.ended if at >= from_s and bulk is is_bulk]


@settings(max_examples=20)
@given(
    times=st.sampled_from([1.5, 2, 3, 10]),
    rate=st.sampled_from([200.0, 1_000.0]),
    cost=st.integers(1, 8),
)
def test_overload_keeps_the_goodput_and_bounds_the_wait(times, rate, cost):
    """At any multiple of what is sustainable: at least 0.95 of it, each within bound and a bit."""
    server = Server(rate)
    per_s = rate / cost
    for i in range(int(per_s * times * 6)):
        server.arrive(i / (per_s * times), cost)
    assert server.goodput(1, 6) >= 0.95 * per_s * 5
    assert all(LEAST_RETRY_S <= after_s <= MOST_RETRY_S for after_s in server.retries_s)
    # the first second is for learning; the rate's own error is the bit
    assert max(server.waits(1.5)) <= max(LIMITS.wait_s, LIMITS.free_cost / rate) * 1.2 + cost / rate


@settings(max_examples=20)
@given(share=st.floats(0.1, 0.85), cost=st.integers(1, 8))
def test_what_is_sustainable_is_never_refused(share, cost):
    """Below the capacity nobody is turned away."""
    server = Server(500.0)
    per_s = 500.0 / cost * share
    for i in range(int(per_s * 5)):
        server.arrive(i / per_s, cost)
    assert server.n["interactive refused"] == 0


def test_a_crowd_that_fits_is_let_in_from_idle():
    """A burst of what is done within the bound meets no refusal, however idle the server was."""
    server = Server(1_000.0)
    for second in range(20):
        server.arrive(second, 1)
    for _ in range(400):
        server.arrive(20.0, 1)
    server.run_until(25.0)
    assert server.n["interactive refused"] == 0


@pytest.mark.parametrize(("per_s", "cold_s"), [(400, 0.2), (440, 0.15), (440, 0.2)])
def test_a_crowd_after_a_cold_start_is_let_in(per_s, cold_s):
    """Answers come a batch at a time, the first one late: the first answer of the first batch is
    no rate. 473 a second can be done, and nobody waits for half a second; nobody is refused."""
    now_s, queue, events, waits_s = 0.0, [], [], []
    limits = dataclasses.replace(LIMITS, blind_cost=8_192, free_cost=128)
    gate = Gate(limits, what="here", clock=lambda: now_s)
    order, is_busy, is_cold = itertools.count(), False, True
    for i in range(per_s * 4):
        heapq.heappush(events, (i / per_s, next(order), "comes", []))
    while events:
        now_s, _, what, batch = heapq.heappop(events)
        if what == "comes":
            gate.enter(1, is_bulk=False, deadline_s=now_s + 10)  # raises where it is refused
            queue.append(now_s)
        elif what == "leaves":
            gate.leave(1, is_bulk=False, is_done=True)
            waits_s.append(now_s - batch[0])
        else:
            is_busy = False
            for n, came_s in enumerate(batch):  # the answers are written one after the other
                heapq.heappush(events, (now_s + n * 0.0004, next(order), "leaves", [came_s]))
        if queue and not is_busy:
            batch, queue, is_busy = queue[:64], queue[64:], True
            took_s = 0.02 + 0.0018 * len(batch) + (cold_s if is_cold else 0.0)
            is_cold = False
            heapq.heappush(events, (now_s + took_s, next(order), "ends", batch))
    assert len(waits_s) == per_s * 4
    assert max(waits_s) < limits.wait_s


def test_a_server_that_slows_down_sheds_and_one_that_recovers_takes_all():
    """Capacity falls to a fifth and comes back: goodput follows within a second or two."""
    server = Server(1_000.0)
    for i in range(800 * 12):
        server.rate = 200.0 if 4 <= i / 800 < 8 else 1_000.0
        server.arrive(i / 800, 1)
    assert server.goodput(6, 8) >= 0.9 * 200 * 2
    assert server.goodput(10, 12) >= 0.95 * 800 * 2


def test_a_hang_is_no_overload_to_a_little_work():
    """50 a second for a second that a hung process takes to be ejected: all stay admitted."""
    server = Server(1e-9)
    server.gate._load = Load(done=1.0, crowded_s=1.0, at_s=0.0, crowded_at_s=0.0)  # 1 a second
    for i in range(50):
        server.arrive(i / 50, 1, timeout_s=10.0)
    assert server.gate.load.wait_s > LIMITS.wait_s, "more of it would be refused"
    assert server.n["interactive refused"] == 0


def test_after_a_hang_the_way_is_open_again():
    """A long hang teaches a rate near 0; that must not outlast the hang by more than seconds."""
    server = Server(1e-9)
    for i in range(200 * 5):
        server.arrive(i / 200, 1, timeout_s=1.0)
    assert server.n["interactive refused"] > 0
    server.rate, server.running = 1_000.0, None
    server.gate.leave(1, is_bulk=False, is_done=False)  # the one that hung is given up
    for i in range(200 * 5):
        server.arrive(5 + i / 200, 1)
    assert server.goodput(7, 10) >= 0.95 * 200 * 3


def test_bulk_never_delays_interactive_work():
    """Bulk at four times the capacity beside a half: interactive waits for one bulk job at most."""
    server = Server(1_000.0)
    for i in range(4_500 * 5):
        is_bulk = i % 9 != 0
        server.arrive(i / 4_500, 1, is_bulk=is_bulk)
    assert server.n["interactive refused"] == 0
    assert max(server.waits(0)) <= 2 / 1_000 + 1e-9 + 0.002
    assert server.goodput(1, 5, is_bulk=True) >= 0.9 * 500 * 4  # and takes all that is left


def test_bulk_stays_out_while_interactive_work_fills_the_place():
    """At twice the capacity of interactive work alone, no bulk work is let in."""
    server = Server(1_000.0)
    for i in range(2_000 * 5):
        server.arrive(i / 2_000, 1)
        if i > 2_000 and i % 10 == 0:
            server.arrive(i / 2_000, 1, is_bulk=True)
    assert server.n["bulk admitted"] == 0
    assert server.n["bulk refused"] > 0


@given(
    cost=st.integers(1, 10**6), is_bulk=st.booleans(), time_left_s=st.floats(1e-6, 100)
)  # fmt: skip
def test_work_that_is_alone_is_always_let_in(cost, is_bulk, time_left_s):
    """However large: nobody would ever serve it otherwise."""
    slow = Load(done=1.0, crowded_s=1.0)
    assert refusal_s(slow, cost, is_bulk=is_bulk, time_left_s=time_left_s, limits=LIMITS) is None


def test_who_cannot_be_served_in_time_is_refused_at_once():
    """The caller's own deadline is a bound too."""
    load = Load(interactive=100.0, done=400.0, crowded_s=1.0)  # a wait of 0.25 s
    known = {"is_bulk": False, "limits": LIMITS}
    assert refusal_s(load, 1, time_left_s=0.6, **known) is None
    assert refusal_s(load, 1, time_left_s=0.4, **known) is not None
    little = Load(interactive=10.0, done=40.0, crowded_s=1.0)  # as long, for little work
    assert refusal_s(little, 1, time_left_s=0.6, **known) is None
    assert refusal_s(little, 1, time_left_s=0.4, **known) is not None


@given(
    ahead=st.floats(1, 5_000),
    rate=st.floats(10, 400),
    time_left_s=st.floats(0.001, MOST_RETRY_S),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_who_has_too_little_time_does_not_come_back_in_it(ahead, rate, time_left_s, chance):
    """Each time it would have less: the client's own rule ends it at the first refusal."""
    load = Load(interactive=ahead, done=rate, crowded_s=1.0)
    after_s = refusal_s(load, 1, is_bulk=False, time_left_s=time_left_s, limits=LIMITS)
    if min(load.wait_s, LIMITS.wait_s) > time_left_s / 2:
        refused = OverloadedError("", retry_after_s=after_s)
        assert not retry_delay_s(
            refused, pushback_ms=None, attempt=1, remaining_s=time_left_s, chance=chance
        )


@given(ahead=st.floats(250, 5_000), rate=st.floats(10, 400))
def test_the_time_to_come_back_is_when_half_the_bound_is_free(ahead, rate):
    """Honest: after it, what was ahead takes half of the bound."""
    load = Load(interactive=ahead, done=rate, crowded_s=1.0)
    after_s = refusal_s(load, 1, is_bulk=False, time_left_s=10.0, limits=LIMITS)
    assert after_s is not None
    if after_s < MOST_RETRY_S:
        assert (ahead - after_s * rate) / rate == pytest.approx(LIMITS.wait_s / 2, abs=0.21)


def test_a_deadline_that_passed_is_told_before_anything_else():
    """DEADLINE_EXCEEDED, not a time to come back, and nothing stays counted."""
    gate = Gate(LIMITS, what="here", clock=lambda: 10.0)
    with pytest.raises(DeadlineExceededError), gate.admit(1, is_bulk=False, deadline_s=10.0):
        pass
    assert gate.load.interactive == 0


def test_what_is_measured_is_forgotten():
    """A rate of long ago must not refuse anybody today; nor is a moment's rate believed."""
    load = Load(interactive=100.0, at_s=0.0)
    load = credited(load, 50.0, is_bulk=False, limits=LIMITS)
    assert advanced(load, KNOWN_AFTER_S / 2, LIMITS).wait_s is None
    load = advanced(load, 1.0, LIMITS)
    assert load.wait_s == pytest.approx(100 / 50 * (math.e - 1))  # 50 in a second, then decayed
    idle = entered(load, -99.0, is_bulk=False)
    assert advanced(idle, 1.0 + FORGET_S / 2, LIMITS).wait_s == pytest.approx(load.wait_s / 100)
    assert advanced(idle, 1.1 + FORGET_S, LIMITS).wait_s is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 100), st.booleans(), st.booleans())),
)
def test_counting_is_exact(events):
    """Whatever comes and goes, what is under way returns to nothing."""
    load, now_s = Load(), 0.0
    for step_s, cost, is_bulk, _ in events:
        now_s += step_s
        load = entered(advanced(load, now_s, LIMITS), cost, is_bulk=is_bulk)
    for step_s, cost, is_bulk, is_done in events:
        now_s += step_s
        load = advanced(load, now_s, LIMITS)
        if is_done:
            load = credited(load, cost, is_bulk=is_bulk, limits=LIMITS)
        load = entered(load, -cost, is_bulk=is_bulk)
    assert load.interactive == load.bulk == 0
    assert load.done >= 0
