"""Which waiting jobs go together."""

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from router.batching import (
    FEW,
    MAX_COST,
    MAX_HOLD_S,
    hold_s,
    next_batch,
    search_cost,
    text_cost,
)


@dataclass(frozen=True, eq=False)
class Job:
    key: str
    cost: int
    is_bulk: bool


JOBS = st.lists(
    st.builds(Job, st.sampled_from("abc"), st.integers(1, 40), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(JOBS, st.integers(1, 100))
def test_a_batch_agrees_and_keeps_the_bound(waiting, max_cost):
    """One key, one class, in the order of arrival, within the cost; a job too large rides alone."""
    batch = next_batch(waiting, max_cost)
    assert len({(job.key, job.is_bulk) for job in batch}) == 1
    assert batch == [job for job in waiting if job in batch]
    assert sum(job.cost for job in batch) <= max_cost or len(batch) == 1


@given(JOBS, st.integers(1, 100))
def test_the_oldest_of_the_first_class_leads(waiting, max_cost):
    """No interactive job waits behind bulk, and none is passed by a younger one of its kind."""
    batch = next_batch(waiting, max_cost)
    interactive = [job for job in waiting if not job.is_bulk]
    assert batch[0] is (interactive or waiting)[0]
    same = [j for j in waiting if (j.key, j.is_bulk) == (batch[0].key, batch[0].is_bulk)]
    assert batch == same[: len(batch)]


@given(JOBS, st.integers(1, 100))
def test_what_fits_does_not_stay_behind(waiting, max_cost):
    """The next of the same kind was left only because it didn't fit."""
    batch = next_batch(waiting, max_cost)
    same = [j for j in waiting if (j.key, j.is_bulk) == (batch[0].key, batch[0].is_bulk)]
    if len(same) > len(batch):
        assert sum(job.cost for job in same[: len(batch) + 1]) > max_cost


@given(JOBS, st.integers(1, 100))
def test_everybody_leaves_in_the_end(waiting, max_cost):
    """Taking batch after batch empties the queue, each job once."""
    left, gone = list(waiting), []
    while left:
        batch = next_batch(left, max_cost)
        gone += batch
        left = [job for job in left if job not in batch]
    assert sorted(map(id, gone)) == sorted(map(id, waiting))


@given(st.integers(1, 4_096), st.integers(0, 2_048), st.integers(1, 1_000), st.integers(1, 65_536))
def test_a_call_within_the_cost_keeps_the_wires_limits(n_queries, n_probe, k, dim):
    """1,024 queries, 8 MiB of vectors, half a million hits: what a shard and a message take."""
    if search_cost(n_queries, n_probe=n_probe, k=k, dim=dim) <= MAX_COST:
        assert n_queries <= 1_024
        assert n_queries * n_probe <= MAX_COST
        assert n_queries * k <= 524_288
        assert n_queries * dim * 4 <= 8 << 20


@given(st.lists(st.integers(1, 16_384), min_size=1, max_size=256))
def test_texts_within_the_cost_fit_a_message(lengths):
    """256 units of texts, four bytes a character: at most some 4 MiB."""
    texts = ["x" * length for length in lengths]
    if len(texts) > 1 and text_cost(texts) <= 256:
        assert sum(4 * len(text) for text in texts) <= 8 << 20
    assert text_cost(texts) >= len(texts)


COUNTS = st.integers(1, 2_000)


@given(COUNTS, COUNTS, st.floats(0, 1))
def test_a_second_call_is_as_large_as_the_first(n_items, n_riding, waited_s):
    """Beside a call of their kind fewer wait for its end, however long; as many may leave."""
    held_s = hold_s(n_items, n_riding=n_riding, n_active=n_items, waited_s=waited_s)
    assert held_s == (0.0 if n_items >= n_riding else math.inf)


@given(COUNTS, st.integers(0, FEW))
def test_few_are_never_held(n_items, n_active):
    """A lone query, and one of a handful, leaves at once."""
    assert hold_s(n_items, n_riding=0, n_active=n_active, waited_s=0.0) == 0.0


@given(COUNTS, COUNTS, COUNTS)
def test_what_cannot_grow_is_never_held(n_items, n_riding, n_active):
    """Company that could not come along is not worth waiting for, whatever the crowd."""
    held_s = hold_s(n_items, n_riding=n_riding, n_active=n_active, waited_s=0.0, is_full=True)
    assert held_s == 0.0


@given(COUNTS, COUNTS, st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_crowd_is_held_for_a_bounded_moment(n_items, n_active, waited_s, later_s):
    """Until half of the crowd rides or the moment is over, and never longer for waiting longer."""
    held_s = hold_s(n_items, n_riding=0, n_active=n_active, waited_s=waited_s)
    assert 0.0 <= held_s <= MAX_HOLD_S
    if 2 * n_items >= n_active or waited_s >= MAX_HOLD_S:
        assert held_s == 0.0
    after_s = hold_s(n_items, n_riding=0, n_active=n_active, waited_s=waited_s + later_s)
    assert after_s <= max(0.0, held_s - later_s) + 1e-9
