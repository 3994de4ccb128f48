"""n_probe for the time that is left: against a known cost, and at its edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.effort import CostModel, choose_n_probe, floor_of

FIXED_S, PER_UNIT_S = 0.002, 0.0001


def fitted(*n_probes: int, n_rounds: int = 60) -> CostModel:
    """A model that saw single queries of these n_probes in turn, each at its true cost."""
    model = CostModel()
    for i in range(n_rounds):
        units = n_probes[i % len(n_probes)]
        model = model.seen(units, FIXED_S + PER_UNIT_S * units)
    return model


VARIED = fitted(16, 64, 128)


def test_the_fit_finds_the_true_cost():
    """Rounds of several sizes tell the fixed part from the slope."""
    assert VARIED.coefficients() == pytest.approx((FIXED_S, PER_UNIT_S), rel=1e-6)


@given(
    n_probe=st.integers(1, 2_048),
    seconds=st.lists(st.floats(0, 10), min_size=1, max_size=40),
    units=st.lists(st.integers(0, 10**6), min_size=1, max_size=40),
)
def test_no_fit_is_absurd(n_probe, seconds, units):
    """Whatever was seen, more lists are never predicted to be faster, nor anything below 0."""
    model = CostModel()
    for unit, second in zip(units, seconds, strict=False):
        model = model.seen(unit, second)
    assert 0 <= model.predicted_s(n_probe) <= model.predicted_s(2 * n_probe) + 1e-9


@given(
    wanted=st.integers(0, 2_048),
    n_queries=st.integers(1, 1_024),
    time_left_s=st.floats(0, 20),
)
def test_the_choice_fits_or_is_the_least(wanted, n_queries, time_left_s):
    """It fits twice over, or nothing less was allowed; and what fits is not made smaller."""
    chosen = choose_n_probe(wanted, n_queries=n_queries, time_left_s=time_left_s, model=VARIED)
    assert floor_of(wanted) <= chosen <= wanted

    def fits(n_probe: int) -> bool:
        return 2 * (FIXED_S + PER_UNIT_S * n_queries * n_probe) <= time_left_s * (1 + 1e-6) + 1e-9

    assert fits(chosen) or chosen == floor_of(wanted)
    if wanted and 2 * (FIXED_S + PER_UNIT_S * n_queries * wanted) <= time_left_s * 0.999:
        assert chosen == wanted


@given(wanted=st.integers(1, 2_048), one_s=st.floats(0, 5), other_s=st.floats(0, 5))
def test_more_time_never_means_fewer_lists(wanted, one_s, other_s):
    """Monotone in the time that is left."""
    less, more = (
        choose_n_probe(wanted, n_queries=4, time_left_s=time_s, model=VARIED)
        for time_s in sorted((one_s, other_s))
    )
    assert less <= more


def test_few_values_are_chosen():
    """At most three for one wanted n_probe, so that queries still share calls."""
    chosen = {
        choose_n_probe(100, n_queries=1, time_left_s=ms / 1e3, model=VARIED) for ms in range(100)
    }
    assert chosen == {100, 50, 25}


def test_what_is_not_known_shrinks_nothing():
    """Before costs were measured, what is wanted is searched, however little time is left."""
    few = fitted(16, n_rounds=5)
    for model in (CostModel(), few):
        assert choose_n_probe(64, n_queries=1, time_left_s=1e-9, model=model) == 64


def test_rounds_that_were_all_alike_predict_themselves():
    """Without spread the prediction for the same work is exact, and less work costs no more."""
    model = fitted(64)
    assert model.predicted_s(64) == pytest.approx(FIXED_S + 64 * PER_UNIT_S)
    assert 0 < model.predicted_s(16) < model.predicted_s(64)


def test_no_lists_stay_none():
    """A recipe without lists has nothing to save."""
    assert choose_n_probe(0, n_queries=1, time_left_s=0.0, model=VARIED) == 0
