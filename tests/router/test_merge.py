"""Merging equals sorting the union, and sharding never changes the answer."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.merge import NO_HIT, ShardHits, merge_top_k

# (ordinal, score) of one query over the whole index; few scores, so that ties are many
HITS = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(-3, 3)), max_size=40, unique_by=lambda h: h[0]
)


def shard_hits(per_query: list[list[tuple[int, float]]], width: int, number: int) -> ShardHits:
    """A shard's reply: its hits best first, cut at `width`, filled up with -1 and any score."""
    shape = (len(per_query), width)
    ordinals = np.full(shape, -1, dtype=np.int64)
    scores = np.full(shape, np.nan, dtype=np.float32)
    for row, hits in enumerate(per_query):
        best = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:width]
        for column, (ordinal, score) in enumerate(best):
            ordinals[row, column], scores[row, column] = ordinal, score
    places = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    return ShardHits(ordinals=ordinals, scores=scores, segments=places + number, rows=places)


def as_lists(winners) -> list[list[tuple[int, float]]]:
    return [
        [(o, s) for p, o, s in zip(*row, strict=True) if p != NO_HIT]
        for row in zip(
            winners.parts.tolist(), winners.ordinals.tolist(), winners.scores.tolist(), strict=True
        )
    ]


@given(st.lists(HITS, min_size=1, max_size=4), st.integers(1, 5), st.data())
def test_merging_is_sorting_the_union(queries, n_shards, data):
    """Ties by ordinal, fillers, offset, threshold and shards of different widths, at once."""
    k = data.draw(st.integers(1, 12))
    offset = data.draw(st.integers(0, 8))
    threshold = data.draw(st.none() | st.integers(-3, 3))
    parts = []
    for number in range(n_shards):
        mine = [[hit for hit in hits if hit[0] % n_shards == number] for hits in queries]
        most = max(map(len, mine))
        # a shard may answer narrower than k + offset only where it holds no more
        width = min(k + offset, most + data.draw(st.integers(0, 2)))
        parts.append(shard_hits(mine, width, number))
    winners = merge_top_k(parts, k, offset=offset, score_threshold=threshold)
    for hits, merged in zip(queries, as_lists(winners), strict=True):
        wanted = [hit for hit in hits if threshold is None or hit[1] >= threshold]
        wanted.sort(key=lambda hit: (-hit[1], hit[0]))
        assert merged == wanted[offset : offset + k]


@given(st.lists(HITS, min_size=1, max_size=3), st.integers(1, 8), st.integers(1, 12))
def test_sharding_never_changes_the_answer(queries, n_shards, k):
    """One shard or eight: the same ordinals and scores in the same order."""
    whole = merge_top_k([shard_hits(queries, k, 0)], k)
    parts = [
        shard_hits([[h for h in hits if h[0] % n_shards == n] for hits in queries], k, n)
        for n in range(n_shards)
    ]
    assert as_lists(merge_top_k(parts, k)) == as_lists(whole)


@given(st.lists(HITS, min_size=1, max_size=3), st.integers(2, 4))
def test_winners_point_at_their_hit(queries, n_shards):
    """`parts` and `columns` lead back to the very hit, whose passage is fetched by them."""
    parts = [
        shard_hits([[h for h in hits if h[0] % n_shards == n] for hits in queries], 6, n)
        for n in range(n_shards)
    ]
    winners = merge_top_k(parts, 9)
    for row, rank in zip(*np.nonzero(winners.parts >= 0), strict=True):
        part = parts[winners.parts[row, rank]]
        column = winners.columns[row, rank]
        assert part.ordinals[row, column] == winners.ordinals[row, rank]
        assert part.scores[row, column] == winners.scores[row, rank]


def test_shards_without_hits_merge_to_nothing():
    """Width 0 and only fillers: no hit, no error."""
    winners = merge_top_k([shard_hits([[], []], 0, 0), shard_hits([[], []], 3, 1)], 5)
    assert as_lists(winners) == [[], []]
    assert as_lists(merge_top_k([shard_hits([[]], 0, 0)], 5)) == [[]]


def test_infinitely_bad_hits_come_before_fillers():
    """A real hit of the lowest score there is still beats a place that holds none."""
    lowest = float(np.finfo(np.float32).min)
    winners = merge_top_k([shard_hits([[(7, lowest)]], 2, 0)], 2)
    assert as_lists(winners) == [[(7, lowest)]]
