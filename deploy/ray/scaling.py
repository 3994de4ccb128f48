"""How many replicas a load needs: the autoscaling policy of encoders and routers.

1. Replicas are *pressed* when, on average, work waits in them for as long as the role's `wait_s`,
   or their core is as busy as its `busy`. What each serves a second while pressed is its
   *capacity*: measured on the machine, with the model and the texts at hand; nobody configures it.
2. Up, after `window_s` of it: as many as keep the offered load at `up_share` of the capacity; one
   more than run, at least, while they are pressed; twice as many as run, at most.
3. Down, after `hold_s` of it: what the most loaded moment of that time needed, at `down_share` of
   the capacity. That is below `up_share`, so a load that was enough to add a replica is not little
   enough to take it away. A quarter of the replicas a step, or one. Where no capacity was measured
   yet, Little's law bounds the need: n calls under way keep n replicas busy at most.
4. What isn't known changes nothing: replicas that tell nothing are no reason to take any away.

Pure: time and what is remembered are arguments. Ray Serve pickles this module by value into its
controller, which may lack this project: so it imports nothing of ours, and nothing of Ray's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

_ROUNDING = 1e-9
_EVERY_S = 1.0
_RELEARN_S = 30.0
"""Seconds of being pressed in which a capacity that was measured too high is forgotten: a machine
that is slow for a moment, as while replicas start on it, is no smaller machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One replica's load over the last seconds, in texts (encoder) or queries (router).

    `wait_s` is the mean wait in the replica before the work begins; `busy` the CPU time that its
    process takes, in cores; `refused_per_s` counts what it refused for want of its own capacity.
    """

    in_flight: float = 0.0
    wait_s: float = 0.0
    busy: float = 0.0
    served_per_s: float = 0.0
    refused_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A role's targets and the constants; shares are of the capacity."""

    wait_s: float = math.inf
    busy: float = math.inf
    up_share: float = 0.75
    down_share: float = 0.6
    window_s: float = 5.0
    hold_s: float = 120.0


RULES = {
    # an encoder batches what waits, so only waiting tells that it is full
    "encoder": Rules(wait_s=0.05),
    # a router's queries wait for encoders and shards, which more routers don't speed up; its own
    # work runs on one core
    "router": Rules(busy=0.8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The least and the most replicas."""

    least: int
    most: int

    def hold(self, n_replicas: int) -> int:
        """The nearest allowed number."""
        return max(self.least, min(self.most, n_replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the policy remembers; times in seconds on the caller's clock, -1 for never.

    `capacity` is what a replica serves a second when pressed, 0 before it was measured; `enough` is
    the most that was needed since `low_since_s`.
    """

    at_s: float = -1.0
    n_running: int = 0
    running_since_s: float = -1.0
    high_since_s: float = -1.0
    pressed_since_s: float = -1.0
    low_since_s: float = -1.0
    enough: int = 0
    capacity: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas there should be, and what to remember."""

    n_replicas: int
    memory: Memory


def decide(
    loads: Sequence[Load],
    *,
    n_running: int,
    n_wanted: int,
    bounds: Bounds,
    now_s: float,
    memory: Memory,
    rules: Rules,
) -> Decision:
    """How many replicas there should be.

    Args:
        loads: of the replicas that told theirs.
        n_running: replicas that serve; others may be starting or stopping.
        n_wanted: what was decided last.
        bounds: the operator's.
        now_s: any clock that only goes on.
        memory: of the last decision.
        rules: the role's.
    """
    memory = _observed(memory, loads, n_running, now_s, rules)
    more = _more(loads, n_running, memory, rules)
    high = bounds.hold(more) > n_wanted
    memory = replace(memory, high_since_s=_since(memory.high_since_s, now_s, is_so=high))
    if high:
        memory = replace(memory, low_since_s=-1.0)
        # what was seen with another number of replicas says little of this one
        held_s = now_s - max(memory.high_since_s, memory.running_since_s)
        n_replicas = bounds.hold(more) if held_s >= rules.window_s else n_wanted
        return Decision(n_replicas=n_replicas, memory=memory)
    enough = bounds.hold(_enough(loads, memory, rules)) if len(loads) >= n_running else n_wanted
    if enough >= n_wanted or memory.pressed_since_s >= 0:
        memory = replace(memory, low_since_s=-1.0)
        return Decision(n_replicas=bounds.hold(n_wanted), memory=memory)
    return _lowered(enough, n_wanted, bounds, now_s, memory, rules)


def _lowered(
    enough: int, n_wanted: int, bounds: Bounds, now_s: float, memory: Memory, rules: Rules
) -> Decision:
    """Fewer, once that has been enough for long."""
    if memory.low_since_s < 0:
        memory = replace(memory, low_since_s=now_s, enough=enough)
    memory = replace(memory, enough=max(memory.enough, enough))
    if now_s - memory.low_since_s < rules.hold_s:
        return Decision(n_replicas=bounds.hold(n_wanted), memory=memory)
    lower = max(memory.enough, n_wanted - max(1, n_wanted // 4))
    return Decision(n_replicas=bounds.hold(lower), memory=replace(memory, low_since_s=-1.0))


def _observed(
    memory: Memory, loads: Sequence[Load], n_running: int, now_s: float, rules: Rules
) -> Memory:
    """The memory after these loads: since when the replicas are pressed, and their capacity."""
    if n_running != memory.n_running:
        memory = replace(memory, n_running=n_running, running_since_s=now_s)
    passed_s = now_s - memory.at_s if memory.at_s >= 0 else 0.0
    pressed = bool(loads) and pressure(loads, rules) >= 1
    memory = replace(
        memory,
        at_s=now_s,
        pressed_since_s=_since(memory.pressed_since_s, now_s, is_so=pressed),
    )
    pressed_s = now_s - max(memory.pressed_since_s, memory.running_since_s)
    served = sum(load.served_per_s for load in loads) / max(1, len(loads))
    if pressed and served > 0 and pressed_s >= rules.window_s:
        kept = math.exp(-passed_s / _RELEARN_S) if memory.capacity else 0.0
        lowered = served + (memory.capacity - served) * kept
        memory = replace(memory, capacity=max(served, lowered))
    elif memory.capacity:
        memory = replace(memory, capacity=max(memory.capacity, served))  # it has shown that it can
    return memory


def pressure(loads: Sequence[Load], rules: Rules) -> float:
    """How near the replicas are to their targets, 1 being there; one sick replica counts as one."""
    each = [
        2.0 if load.refused_per_s > 0
        else min(2.0, max(load.wait_s / rules.wait_s, load.busy / rules.busy))
        for load in loads
    ]  # fmt: skip
    return sum(each) / len(each)


def _more(loads: Sequence[Load], n_running: int, memory: Memory, rules: Rules) -> int:
    """How many the offered load asks for, two for each that runs at most; 0 for no reason."""
    by_rate = _needed(_offered(loads), memory.capacity * rules.up_share)
    one_more = n_running + 1 if memory.pressed_since_s >= 0 else 0
    return min(2 * n_running, max(by_rate, one_more))


def _enough(loads: Sequence[Load], memory: Memory, rules: Rules) -> int:
    """How many carry the load at `down_share`: by their capacity, or by a law that needs none."""
    bounds = [_needed(sum(load.in_flight for load in loads), rules.down_share)]
    if rules.busy < math.inf:
        bounds.append(_needed(sum(load.busy for load in loads), rules.down_share))
    if memory.capacity:
        bounds.append(_needed(_offered(loads), memory.capacity * rules.down_share))
    return min(bounds)


def _offered(loads: Sequence[Load]) -> float:
    return sum(load.served_per_s + load.refused_per_s for load in loads)


def _needed(amount: float, each: float) -> int:
    return math.ceil(amount / each - _ROUNDING) if each else 0


def _since(since_s: float, now_s: float, *, is_so: bool) -> float:
    """Since when it is so without a break: the time before, or now; -1 where it isn't."""
    if not is_so:
        return -1.0
    return since_s if since_s >= 0 else now_s


class ScalingPolicy:
    """Ray Serve's form of `decide`: `AutoscalingPolicy(policy_function="deploy.ray.scaling.
    ScalingPolicy", policy_kwargs={"role": "encoder"})`; further arguments replace the role's rules.

    Serve calls it ten times a second, and keeps the memory that it returns.
    """

    def __init__(self, role: str, **rules: float) -> None:
        self._rules = replace(RULES[role], **rules)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number and the state; `context` is a ray.serve.config.AutoscalingContext."""
        names = {field.name for field in fields(Memory)}
        memory = Memory(**{k: v for k, v in context.policy_state.items() if k in names})
        now_s = context.current_time
        if 0 <= now_s - memory.at_s < _EVERY_S:
            return context.target_num_replicas, asdict(memory)
        decision = decide(
            loads_told(context.raw_metrics or {}, now_s, self._rules.window_s),
            n_running=context.current_num_replicas,
            n_wanted=context.target_num_replicas,
            bounds=Bounds(
                least=context.capacity_adjusted_min_replicas,
                most=context.capacity_adjusted_max_replicas,
            ),
            now_s=now_s,
            memory=memory,
            rules=self._rules,
        )
        return decision.n_replicas, asdict(decision.memory)


def loads_told(
    metrics: Mapping[str, Mapping[Any, Sequence[Any]]], now_s: float, window_s: float
) -> list[Load]:
    """Each replica's mean load over the window that ends with its last word.

    Args:
        metrics: by `Load`'s field names and by replica, points with `timestamp` and `value`.
        now_s: who was silent for longer than two windows, by this clock, is left out.
        window_s: seconds.
    """
    told: dict[Any, dict[str, float]] = {}
    for field in fields(Load):
        for replica, points in metrics.get(field.name, {}).items():
            if not points or now_s - points[-1].timestamp > 2 * window_s:
                continue
            recent = [p.value for p in points if p.timestamp > points[-1].timestamp - window_s]
            told.setdefault(replica, {})[field.name] = sum(recent) / len(recent)
    return [Load(**values) for values in told.values()]
