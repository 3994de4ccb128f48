"""Which pairs come together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder_service.training.batches import plan_epoch


@given(
    groups=st.lists(st.integers(-1, 4), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    block_size=st.integers(1, 9),
    mates=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_pair_comes_once_but_for_the_remainder(groups, batch_size, block_size, mates, seed):
    """An epoch is a permutation cut into full batches, the same for the same seed."""
    numbers = np.array(groups)
    passages = np.arange(len(groups)) // 2
    made = [
        plan_epoch(numbers, passages, batch_size=batch_size, block_size=block_size,
                   questions_per_passage=mates, seed=seed, epoch=3)
        for _ in range(2)
    ]  # fmt: skip
    rows = np.concatenate(made[0]) if made[0] else np.array([], dtype=int)
    assert len(made[0]) == len(groups) // batch_size
    assert all(len(batch) == batch_size for batch in made[0])
    assert len(set(rows.tolist())) == len(rows)
    assert all(np.array_equal(a, b) for a, b in zip(*made, strict=True))


def test_epochs_differ():
    """Another epoch, other company."""
    groups, passages = np.zeros(64, dtype=int), np.arange(64)
    first, second = (
        plan_epoch(groups, passages, batch_size=8, block_size=8, seed=0, epoch=epoch)
        for epoch in (0, 1)
    )
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_grouped_batches_are_of_one_group_and_of_different_passages():
    """10 groups of 16 passages with 3 questions each: no batch of 16 mixes or repeats."""
    groups = np.repeat(np.arange(10), 48)
    passages = np.repeat(np.arange(160), 3)
    for batch in plan_epoch(groups, passages, batch_size=16, block_size=16, seed=1, epoch=0):
        assert len(set(groups[batch].tolist())) == 1
        assert len(set(passages[batch].tolist())) == 16


def test_questions_of_one_passage_come_together_where_they_may():
    """10 groups of 16 passages with 4 questions each: blocks of 16 hold 8 passages, twice each."""
    groups = np.repeat(np.arange(10), 64)
    passages = np.repeat(np.arange(160), 4)
    seen = set()
    for epoch in (0, 1):
        batches = plan_epoch(groups, passages, batch_size=16, block_size=16,
                             questions_per_passage=2, seed=1, epoch=epoch)  # fmt: skip
        for batch in batches:
            assert len(set(groups[batch].tolist())) == 1
            together, counts = np.unique(passages[batch], return_counts=True)
            assert counts.tolist() == [2] * 8
            seen.add(tuple(together.tolist()))
    assert len(seen) == 2 * 20, "other passages should meet in another epoch"


def test_pairs_without_a_group_are_mixed():
    """Those that stand alone fill batches of their own kind, in a random order."""
    groups = np.full(64, -1)
    batches = plan_epoch(groups, np.arange(64), batch_size=8, block_size=8, seed=1, epoch=0)
    assert any(np.ptp(batch) > 16 for batch in batches)
