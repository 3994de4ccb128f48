"""When calls are due: facts about the schedules themselves, no clock involved."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.bench.schedule import (
    Stage,
    clients_of,
    due_times,
    parse_clients,
    parse_rates,
    share_of,
    stages_of,
)
from shoal.errors import InvalidArgumentError

RATES = st.floats(0.5, 500)


def test_a_constant_rate_is_evenly_spaced():
    """Call i is due at i / rate, up to the end and not beyond."""
    due = list(due_times(Stage(rate=20, warmup_s=0.5, duration_s=1.0)))
    assert due == [i / 20 for i in range(30)]


@given(rate=RATES, to_rate=RATES, warmup_s=st.floats(0, 2), duration_s=st.floats(0.5, 5))
def test_a_ramp_sends_the_area_under_its_rate(rate, to_rate, warmup_s, duration_s):
    """Arrivals until t are the integral of the rate: the warm-up's rectangle and a trapezoid."""
    stage = Stage(rate=rate, to_rate=to_rate, warmup_s=warmup_s, duration_s=duration_s)
    due = list(due_times(stage))
    area = rate * warmup_s + (rate + to_rate) / 2 * duration_s
    assert abs(len(due) - area) <= 1 + 1e-6 * area
    assert all(a <= b for a, b in itertools.pairwise(due))
    assert not due or due[-1] < stage.total_s


def test_the_middle_of_a_ramp_is_at_its_middle_rate():
    """From 100 to 300 over 10 s, calls come 200 a second around the fifth second."""
    due = np.array(list(due_times(Stage(rate=100, to_rate=300, warmup_s=0, duration_s=10))))
    around = ((due >= 4.5) & (due < 5.5)).sum()
    assert around == pytest.approx(200, abs=2)


def test_poisson_arrivals_are_independent_at_the_rate():
    """Gaps of a Poisson process have mean and deviation 1 / rate; an even schedule has none."""
    stage = Stage(rate=50, arrivals="poisson", warmup_s=0, duration_s=400)
    gaps = np.diff(list(due_times(stage, seed=3)))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.05)


def test_a_seed_is_a_schedule():
    """A run can be repeated: the same seed the same arrivals, another one others."""
    stage = Stage(rate=50, arrivals="poisson", warmup_s=0, duration_s=2)
    assert list(due_times(stage, seed=1)) == list(due_times(stage, seed=1))
    assert list(due_times(stage, seed=1)) != list(due_times(stage, seed=2))


@given(n_workers=st.integers(1, 7), arrivals=st.sampled_from(["constant", "poisson"]))
def test_workers_together_send_what_one_would(n_workers, arrivals):
    """No call is sent twice and none is left out, however many share the schedule."""
    stage = Stage(rate=40, to_rate=90, arrivals=arrivals, warmup_s=0.2, duration_s=1)
    alone = list(enumerate(due_times(stage, seed=5)))
    shares = [share_of(w, n_workers, due_times(stage, seed=5)) for w in range(n_workers)]
    assert sorted(itertools.chain(*shares)) == alone


@given(clients=st.integers(1, 100), n_workers=st.integers(1, 9))
def test_clients_are_shared_out(clients, n_workers):
    """Their number is what was asked for, and no worker has two more than another."""
    shares = [clients_of(w, n_workers, clients) for w in range(n_workers)]
    assert sum(shares) == clients
    assert max(shares) - min(shares) <= 1


def test_steps_and_ramps_are_read_from_one_text():
    """One number, several, or two with dots between; each step has its own warm-up."""
    assert parse_rates("50") == [(50.0, None)]
    assert parse_rates("50, 100,200..400") == [(50.0, None), (100.0, None), (200.0, 400.0)]
    assert parse_clients("1,4,16") == [1, 4, 16]
    stages = stages_of(parse_rates("50,100"), [], arrivals="poisson", warmup_s=1, duration_s=3)
    assert [(s.rate, s.warmup_s, s.duration_s) for s in stages] == [(50, 1, 3), (100, 1, 3)]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"rate": 1.0, "clients": 1},
        {"clients": 1, "to_rate": 2.0},
        {"rate": 0.0},
        {"rate": math.inf},
        {"rate": math.nan},
        {"rate": 1.0, "to_rate": -1.0},
        {"rate": 1.0, "duration_s": 0},
        {"rate": 1.0, "warmup_s": -1},
        {"rate": 1.0, "arrivals": "bursts"},
    ],
)
def test_what_is_no_load_is_refused(wrong):
    """Both loops or none, no time, no rate: refused before anything is started."""
    with pytest.raises(InvalidArgumentError):
        Stage(**wrong)


@pytest.mark.parametrize("text", ["", "fast", "50,", "50..", "..50"])
def test_a_text_that_is_no_rate_is_refused(text):
    """With what it may look like."""
    with pytest.raises(InvalidArgumentError, match="ramp as in"):
        parse_rates(text)
