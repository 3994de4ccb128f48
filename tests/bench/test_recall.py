"""Recall of a run, against counts made by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.bench.tally import Recall
from shoal.bench.target import Reply, Served
from shoal.bench.truth import Truth, recall_at_k, recall_figures, sampled

HERE = Served(index="i", version=2)


def test_recall_is_the_share_of_the_true_passages():
    """Order doesn't matter, a query without any true passage misses none, queries count alike."""
    assert recall_at_k((("a", "b"),), (("b", "a"),)) == 1
    assert recall_at_k((("a", "x", "y", "z"),), (("a", "b", "c", "d"),)) == 0.25
    assert recall_at_k((("a",), ()), (("a",), ("b",))) == 0.5
    assert recall_at_k(((),), ((),)) == 1


def test_another_version_is_not_compared():
    """Its passages are others; None is counted apart."""
    truth = Truth(served=HERE, ids={3: (("a", "b"),)})
    found = (("a", "x"),)
    assert truth.recall_of(3, Reply(code="OK", served=HERE, ids=found)) == 0.5
    moved = Served(index="i", version=3)
    assert truth.recall_of(3, Reply(code="OK", served=moved, ids=found)) is None
    assert truth.recall_of(3, Reply(code="UNAVAILABLE")) is None


def test_truth_survives_json():
    """It goes to every worker."""
    truth = Truth(served=HERE, ids={3: (("a", "b"), ())})
    assert Truth.from_json(json.loads(json.dumps(truth.to_json()))) == truth


def test_the_interval_is_by_questions():
    """A question that was asked often is one question: the deviation is over their means."""
    figures = recall_figures([Recall(10, 10.0), Recall(1, 0.5)], k=10, n_other_version=3)
    assert figures is not None
    assert (figures.mean, figures.n, figures.n_answers) == (0.75, 2, 11)
    half = 1.96 * 0.3535534 / 2**0.5
    assert figures.low == pytest.approx(0.75 - half, abs=1e-6)
    assert figures.high == 1.0
    assert figures.n_other_version == 3
    assert recall_figures([], k=10, n_other_version=0) is None


@given(st.integers(1, 5_000), st.integers(1, 300), st.integers(0, 9_000), st.integers(0, 3))
def test_the_sample_is_spread_over_what_is_sent(n_requests, n_wanted, n_calls, seed):
    """Distinct, as many as wanted where there are, none that won't be sent, gaps of one width."""
    chosen = sorted(sampled(n_requests, n_wanted, n_calls, seed))
    n_sent = max(1, min(n_requests, n_calls))
    assert len(set(chosen)) == len(chosen) == min(n_wanted, n_sent)
    assert chosen[0] == 0
    assert chosen[-1] < n_sent
    widest = max((b - a for a, b in zip(chosen, [*chosen[1:], n_sent], strict=True)), default=1)
    assert widest <= n_sent / len(chosen) + 1


@given(n_requests=st.integers(300, 5_000), seed=st.integers(0, 3))
def test_a_run_of_unknown_length_meets_the_sample(n_requests, seed):
    """Whether the measured part is calls 30 to 100 or 1,000 to 4,000, some of its questions are
    in it.
    """
    chosen = sampled(n_requests, 200, None, seed)
    assert len(set(chosen)) == len(chosen) > 50
    assert max(chosen) < n_requests
    for begin, end in ((30, 100), (100, 300), (1_000, 4_000)):
        if end <= n_requests:
            assert sum(begin <= request < end for request in chosen) >= 15
