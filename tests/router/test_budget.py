"""Extra calls stay a share of those asked for, whatever happens."""

import random

import pytest

from router.budget import CallBudget


@pytest.mark.parametrize("seed", range(20))
def test_no_window_has_more_extra_calls_than_its_share(seed):
    """Over any window: floor + share of the calls offered in it and the two before."""
    chance = random.Random(seed)
    budget, now_s = CallBudget(0.2, floor=3, window_s=1.0), 0.0
    offered, taken = [], []
    for _ in range(3_000):
        now_s += chance.expovariate(chance.choice([20, 400]))
        if chance.random() < 0.5:
            budget.offer(4, now_s)
            offered.append(now_s)
        elif budget.take(now_s):
            taken.append(now_s)
    assert taken
    for start_s in range(int(now_s)):
        spent = sum(start_s <= at_s < start_s + 1 for at_s in taken)
        asked = 4 * sum(start_s - 2 <= at_s < start_s + 1 for at_s in offered)
        assert spent <= 2 * 3 + 0.2 * asked


def test_a_quiet_router_may_retry():
    """The floor is granted though nothing was offered, and again after a while."""
    budget = CallBudget(0.1, floor=2, window_s=1.0)
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    assert not budget.take(1.5)
    assert budget.take(3.6)


def test_a_share_of_all_calls_over_a_long_time():
    """Taken whenever it is granted, the extra is the share, not more."""
    budget, granted = CallBudget(0.05, floor=0, window_s=1.0), 0
    for n in range(20_000):
        budget.offer(1, n / 1_000)
        granted += budget.take(n / 1_000)
    assert 0.045 * 20_000 <= granted <= 0.05 * 20_000
