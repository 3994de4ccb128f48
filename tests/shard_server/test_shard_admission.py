"""The shard's gate: what a search costs, and what may wait for the one thread."""

import pytest
from fakes.clock import Clock

from shard_server.admission import CALL_COST, search_cost, search_gate
from shard_server.limits import SearchParameters
from shoal.admission import KNOWN_AFTER_S
from shoal.errors import DeadlineExceededError, OverloadedError

BATCH = SearchParameters(k=10, n_probe=64)
LARGE = search_cost(BATCH, n_queries=1_024, n_live=10**6)


def test_cost_is_queries_times_lists():
    """Linear in both; brute force counts the lists that its rows would fill."""
    few = SearchParameters(k=10, n_probe=16)
    assert search_cost(few, n_queries=1, n_live=10**6) == CALL_COST + 16
    assert search_cost(few, n_queries=64, n_live=10**6) == CALL_COST + 64 * 16
    exact = SearchParameters(k=10, exact=True)
    assert search_cost(exact, n_queries=2, n_live=256_000) == CALL_COST + 2 * 1_000
    assert search_cost(exact, n_queries=2, n_live=10) == CALL_COST + 2


def test_the_two_calls_of_one_router_are_never_refused():
    """A router has two calls under way at most; however slow the shard, both may wait."""
    assert LARGE == CALL_COST + 65_536, "the most that a router sends in one call"
    clock = Clock()
    gate = search_gate(wait_s=1.0, max_queued=64, clock=clock)
    for _ in range(3):  # it learns how slow it is: 50 s a call
        gate.enter(LARGE, is_bulk=False, deadline_s=1_000)
        clock.now_s += 50.0
        gate.leave(LARGE, is_bulk=False, is_done=True)
    gate.enter(LARGE, is_bulk=False, deadline_s=1_000)
    clock.now_s += 0.5
    gate.enter(LARGE, is_bulk=False, deadline_s=1_000)
    assert gate.load.wait_s > 1.0
    with pytest.raises(OverloadedError):
        gate.enter(1, is_bulk=False, deadline_s=1_000)


def test_many_routers_calls_are_bounded_by_their_wait():
    """Once the rate is known, a call that would wait for more than the bound is refused."""
    clock = Clock()
    gate = search_gate(wait_s=1.0, max_queued=64, clock=clock)
    for _ in range(12):
        gate.enter(LARGE, is_bulk=False, deadline_s=100)
    clock.now_s = 10 * KNOWN_AFTER_S
    for _ in range(4):
        gate.leave(LARGE, is_bulk=False, is_done=True)
    with pytest.raises(OverloadedError) as refused:
        gate.enter(LARGE, is_bulk=False, deadline_s=100)
    assert refused.value.retry_after_s > 0


def test_a_spent_deadline_enters_nowhere():
    """Fault 34: the shard's counter stays at 0."""
    clock = Clock()
    gate = search_gate(wait_s=1.0, max_queued=64, clock=clock)
    with pytest.raises(DeadlineExceededError):
        gate.enter(1, is_bulk=False, deadline_s=0.0)
    assert gate.load.interactive == 0
