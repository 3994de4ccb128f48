"""The one order of hits, checked against Python's own sort."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shard_server.hits import ShardHits, in_order, is_settled, merge, undecided

FEW_SCORES = st.integers(0, 3).map(float)


def part(rows, number=0):
    """Hits of one segment from lists of (score, ordinal), best first, filled up with -1."""
    width = max(len(row) for row in rows)
    scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
    ordinals = np.full((len(rows), width), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        for j, (score, ordinal) in enumerate(row):
            scores[i, j], ordinals[i, j] = score, ordinal
    return ShardHits(
        ordinals=ordinals,
        segments=np.full(scores.shape, number, dtype=np.uint32),
        rows=np.maximum(ordinals, 0).astype(np.uint32),
        scores=scores,
        exact=True,
    )


def best_first(pairs):
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


@given(st.lists(st.lists(FEW_SCORES, max_size=12), min_size=1, max_size=4), st.integers(1, 8))
def test_merge_is_a_sort_of_everything(score_lists, k):
    """The best k of several segments are the best k of their union, ties by ordinal."""
    parts, union, next_ordinal = [], [], 0
    for number, scores in enumerate(score_lists):
        pairs = [(score, next_ordinal + i) for i, score in enumerate(scores)]
        next_ordinal += len(scores)
        union += pairs
        parts.append(part([best_first(pairs)], number))
    merged = merge(parts, k)
    real = merged.ordinals[0] >= 0
    found = list(zip(merged.scores[0][real].tolist(), merged.ordinals[0][real], strict=True))
    width = max(len(scores) for scores in score_lists)
    wanted = best_first(union)[: max(k, width) if len(parts) == 1 else k]
    assert found[:k] == wanted[:k]
    assert not real[len(found) :].any()


@given(st.lists(FEW_SCORES, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_equal_scores_stand_by_ordinal(scores, random):
    """Whatever order faiss leaves ties in, in_order settles it and moves the rows along."""
    pairs = list(enumerate(scores))
    random.shuffle(pairs)
    pairs.sort(key=lambda pair: -pair[1])
    scores = np.array([[score for _, score in pairs]], dtype=np.float32)
    ordinals = np.array([[ordinal for ordinal, _ in pairs]], dtype=np.int64)
    rows = ordinals + 100
    in_order(scores, ordinals, rows)
    wanted = best_first([(score, ordinal) for ordinal, score in pairs])
    assert ordinals[0].tolist() == [ordinal for _, ordinal in wanted]
    np.testing.assert_array_equal(rows, ordinals + 100)


def test_a_tie_through_the_last_column_is_undecided():
    """Only there may faiss have left out an equal hit with a lower ordinal."""
    hits = part([[(3, 1), (2, 2), (2, 3)], [(3, 1), (2, 2), (1, 3)], [(3, 1), (2, 2)]])
    assert undecided(hits.scores, hits.ordinals, 2).tolist() == [0]
    assert undecided(hits.scores, hits.ordinals, 3).tolist() == []


@given(st.lists(st.lists(FEW_SCORES, min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_settled_needs_nothing_done(score_lists):
    """The fast path is taken only where order, edge and fillers would all be left as they are."""
    hits = part([best_first([(s, i) for i, s in enumerate(row)]) for row in score_lists])
    width = hits.scores.shape[1]
    no_ties_nor_fillers = all(len(set(row)) == len(row) == width for row in score_lists)
    if is_settled(hits.scores, hits.ordinals):
        assert no_ties_nor_fillers


def test_distinct_scores_are_settled():
    """Or every search would take the slow path, and no answer would tell."""
    assert is_settled(part([[(9, 1), (8, 2)], [(7, 3), (6, 4)]]).scores, np.array([[1, 2], [3, 4]]))
