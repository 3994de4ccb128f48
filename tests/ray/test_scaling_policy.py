"""The autoscaling policy in simulated time: queues fill and drain, replicas take time to start.

The oracle is queueing theory's: a load of L a second needs replicas that serve C each to run at
most at a share of C, or their queues grow.
"""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from deploy.ray.scaling import (
    RULES,
    Bounds,
    Load,
    Memory,
    Rules,
    ScalingPolicy,
    decide,
    loads_told,
)

CAPACITY = 100.0
BOUNDS = Bounds(least=1, most=20)
RULES_HERE = Rules(wait_s=0.05, hold_s=60.0)
BOUND_S = 0.5  # admission refuses what would wait longer


@dataclass
class Simulated:
    """Replicas that share an open-loop load evenly; a tick is a second, a start takes `start_s`.

    A replica's wait is its backlog's and that of an M/D/1 queue (Pollaczek and Khinchine).
    """

    bounds: Bounds = BOUNDS
    rules: Rules = RULES_HERE
    start_s: int = 15
    n_running: int = 1
    n_wanted: int = 1
    backlog: float = 0.0
    now_s: int = 0
    memory: Memory = field(default_factory=Memory)
    starting: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    refused: float = 0.0
    recent: list[Load] = field(default_factory=list)
    capacity: float = CAPACITY

    def tick(self, rate):
        """One second at `rate` a second; returns what was decided."""
        self.now_s += 1
        self.n_running += sum(at_s <= self.now_s for at_s in self.starting)
        self.starting = [at_s for at_s in self.starting if at_s > self.now_s]
        can = self.capacity * self.n_running
        served = min(can, self.backlog + rate)
        left = self.backlog + rate - served
        self.backlog = min(left, BOUND_S * can)
        refused = left - self.backlog
        self.refused += refused
        share = min(0.99, served / can)
        wait_s = self.backlog / can + share / (2 * self.capacity * (1 - share))
        self.recent = [*self.recent, Load(
            in_flight=wait_s * served / self.n_running + share, wait_s=wait_s, busy=share,
            served_per_s=served / self.n_running, refused_per_s=refused / self.n_running,
        )][-5:]  # fmt: skip
        self._decide()
        self.wanted.append(self.n_wanted)
        self.running.append(self.n_running)
        return self.n_wanted

    def _decide(self):
        mean = Load(**{
            name: float(np.mean([getattr(load, name) for load in self.recent]))
            for name in ("in_flight", "wait_s", "busy", "served_per_s", "refused_per_s")
        })  # fmt: skip
        decision = decide(
            [mean] * self.n_running, n_running=self.n_running, n_wanted=self.n_wanted,
            bounds=self.bounds, now_s=float(self.now_s), memory=self.memory, rules=self.rules,
        )  # fmt: skip
        self.memory = decision.memory
        while self.n_running + len(self.starting) < decision.n_replicas:
            self.starting.append(self.now_s + self.start_s)
        while self.n_running + len(self.starting) > decision.n_replicas:
            if self.starting:
                self.starting.pop()
            else:
                self.n_running -= 1
        self.n_wanted = decision.n_replicas

    def changes(self):
        """The decisions that changed something, as differences."""
        return [b - a for a, b in zip([1, *self.wanted], self.wanted, strict=False) if a != b]


def needed(rate, share):
    """The oracle: the fewest replicas that run at this share of their capacity or less."""
    return max(BOUNDS.least, min(BOUNDS.most, math.ceil(rate / (share * CAPACITY))))


@pytest.mark.parametrize("rate", [30, 90, 140, 220, 400, 900, 1400])
@pytest.mark.parametrize("start_s", [0, 15, 60])
def test_a_step_up_reaches_what_queueing_theory_asks_for(rate, start_s):
    """Between the oracle's numbers for either share, without a step down on the way."""
    world = Simulated(start_s=start_s)
    for _ in range(60):
        world.tick(20)
    assert world.n_wanted == 1
    for _ in range(500):
        world.tick(rate)
    assert needed(rate, 1.0) <= world.n_wanted <= needed(rate, RULES_HERE.down_share)
    assert all(change > 0 for change in world.changes())
    assert world.backlog == 0


def test_a_step_takes_seconds_to_be_answered():
    """Fast up: the first replica more is asked for within two windows of the step."""
    world = Simulated()
    for _ in range(30):
        world.tick(40)
    for _ in range(int(2 * RULES_HERE.window_s)):
        world.tick(180)
    assert world.n_wanted == 2


def test_the_load_goes_and_so_do_the_replicas():
    """Slow down: nothing before `hold_s`, a quarter a step, and the least at the end."""
    world = Simulated()
    for _ in range(400):
        world.tick(900)
    top = world.n_wanted
    begun = len(world.wanted)
    for _ in range(int(RULES_HERE.hold_s) - 1):
        assert world.tick(10) == top
    for _ in range(1500):
        world.tick(10)
    assert world.n_wanted == 1
    steps = [
        (a, b)
        for a, b in zip(world.wanted[begun:], world.wanted[begun + 1 :], strict=False)
        if a != b
    ]
    assert steps
    assert all(0 < a - b <= max(1, a // 4) for a, b in steps)
    assert world.refused < 900 * 120


@pytest.mark.parametrize("period_s", [10, 20, 40, 90])
def test_a_flapping_load_makes_no_flapping_cluster(period_s):
    """A load that comes and goes faster than `hold_s` keeps what its peaks need."""
    world = Simulated()
    for second in range(900):
        world.tick(300 if second % period_s < period_s / 2 else 20)
    assert all(change > 0 for change in world.changes())
    assert world.n_wanted <= needed(300, RULES_HERE.down_share)


def test_a_load_that_drifts_around_a_threshold_moves_nothing():
    """What asked for a replica is not little enough to take it away: 75 % of 200 is 150."""
    world = Simulated()
    for second in range(2000):
        world.tick(160 if second // 200 % 2 == 0 else 140)
    assert world.changes() == [1, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [60, 149, 151, 225, 610])
def test_noise_changes_nothing_once_it_is_settled(seed, rate):
    """Poisson arrivals around a rate, thresholds included: it never takes away and adds again."""
    rng = np.random.default_rng([seed, rate])
    world = Simulated()
    for _ in range(300):
        world.tick(float(rng.poisson(rate)))
    settled = world.n_wanted
    for _ in range(900):
        world.tick(float(rng.poisson(rate)))
    changes = [
        b - a for a, b in zip(world.wanted[300:], world.wanted[301:], strict=False) if a != b
    ]
    assert len(changes) <= 1, f"{settled} and then {changes}"


def test_replicas_that_take_long_to_start_are_not_asked_for_twice():
    """Two minutes of a node's start with a standing queue end with what the load needs, no more."""
    world = Simulated(start_s=120)
    for _ in range(900):
        world.tick(260)
    assert world.n_wanted <= needed(260, RULES_HERE.down_share)
    assert len(world.changes()) <= 3


def test_no_bound_is_ever_crossed():
    """Whatever the load: never below the least, never above the most."""
    world = Simulated(bounds=Bounds(least=2, most=5), n_running=2, n_wanted=2)
    for second in range(600):
        world.tick(5_000 if second < 200 else 0)
    assert min(world.wanted) == 2
    assert max(world.wanted) == 5


def test_a_number_outside_the_bounds_is_brought_into_them():
    """An operator who narrows the bounds doesn't wait for a load to change."""
    kept = decide(
        [Load()] * 9, n_running=9, n_wanted=9, bounds=Bounds(least=1, most=4), now_s=1.0,
        memory=Memory(), rules=RULES_HERE,
    )  # fmt: skip
    assert kept.n_replicas == 4


def test_one_step_at_most_doubles():
    """A rate of refusals counts every retry: it is believed in steps."""
    memory = Memory(
        capacity=10.0, n_running=3, running_since_s=0.0, high_since_s=50.0, pressed_since_s=50.0,
        at_s=99.0,
    )  # fmt: skip
    load = Load(wait_s=1.0, served_per_s=10.0, refused_per_s=1_000.0)
    decision = decide(
        [load] * 3, n_running=3, n_wanted=3, bounds=BOUNDS, now_s=100.0, memory=memory,
        rules=RULES_HERE,
    )  # fmt: skip
    assert decision.n_replicas == 6


def test_who_tells_nothing_is_not_taken_away():
    """A controller that has just started has heard of nobody: no reason to end anything."""
    memory = Memory()
    for second in range(1000):
        decision = decide(
            [], n_running=4, n_wanted=4, bounds=BOUNDS, now_s=float(second), memory=memory,
            rules=RULES_HERE,
        )  # fmt: skip
        memory = decision.memory
        assert decision.n_replicas == 4


def test_one_sick_replica_is_no_reason_to_grow():
    """One of four that hangs is for its health check; the mean of the four isn't pressed."""
    memory = Memory()
    loads = [
        *[Load(wait_s=0.001, served_per_s=20, in_flight=0.3)] * 3,
        Load(wait_s=60, in_flight=9),
    ]
    for second in range(100):
        decision = decide(
            loads, n_running=4, n_wanted=4, bounds=BOUNDS, now_s=float(second), memory=memory,
            rules=RULES_HERE,
        )  # fmt: skip
        memory = decision.memory
        assert decision.n_replicas <= 4


def test_without_a_measured_capacity_the_calls_under_way_bound_the_need():
    """Little's law: after a restart of the controller 2.2 erlangs are not given to two replicas."""
    memory = Memory()
    for second in range(500):
        decision = decide(
            [Load(wait_s=0.001, served_per_s=73, in_flight=0.73)] * 3, n_running=3, n_wanted=3,
            bounds=BOUNDS, now_s=float(second), memory=memory, rules=RULES_HERE,
        )  # fmt: skip
        memory = decision.memory
        assert decision.n_replicas == 3


def test_a_router_that_waits_for_slow_shards_gets_no_company():
    """More routers don't make shards faster: only a router's own busy core counts."""
    memory = Memory()
    for second in range(100):
        decision = decide(
            [Load(wait_s=0.5, in_flight=400, busy=0.2, served_per_s=100)], n_running=1, n_wanted=1,
            bounds=BOUNDS, now_s=float(second), memory=memory, rules=RULES["router"],
        )  # fmt: skip
        memory = decision.memory
    assert decision.n_replicas == 1


def test_a_busy_router_does_get_company():
    """At its core's limit there is nothing else that helps."""
    world = Simulated(rules=RULES["router"])
    for _ in range(100):
        world.tick(95)
    assert world.n_wanted == 2


def points(*values, until_s=100.0):
    """A second apart, the last at `until_s`."""
    first_s = until_s - len(values) + 1
    return [SimpleNamespace(timestamp=first_s + i, value=v) for i, v in enumerate(values)]


def test_a_load_is_the_mean_of_the_window():
    """What lies before the window, and who fell silent, says nothing of now."""
    told = loads_told(
        {"wait_s": {"a": points(9, 9, 1, 2, 3), "silent": points(5, until_s=80.0)}},
        now_s=101.0, window_s=3.0,
    )  # fmt: skip
    assert told == [Load(wait_s=2.0)]


def test_serves_form_keeps_its_memory_in_the_state():
    """Serve hands back what it was given, with keys of its own, and calls ten times a second."""
    policy = ScalingPolicy(role="encoder", window_s=3.0)
    state, wanted = {"__decision_counters": 3}, 1
    for tenth in range(120):
        now_s = 1e9 + tenth / 10
        context = SimpleNamespace(
            policy_state=dict(state), current_time=now_s, current_num_replicas=1,
            target_num_replicas=wanted, capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=3,
            raw_metrics={
                "wait_s": {"r": points(0.2, 0.2, until_s=now_s)},
                "served_per_s": {"r": points(50.0, 50.0, until_s=now_s)},
            },
        )  # fmt: skip
        wanted, state = policy(context)
    assert wanted == 2
    assert state["capacity"] == 50.0
