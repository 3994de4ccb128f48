"""The LRU against a model of it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoder_service.cache import CachedQuery, QueryCache


def entry(value: float) -> CachedQuery:
    return CachedQuery(vector=np.full(3, value, dtype=np.float32), truncated=False)


@given(st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"))))
def test_the_least_recently_used_leaves(n_entries, steps):
    """After any use, exactly the last distinct keys that were put or found are kept."""
    cache = QueryCache(n_entries)
    recent: list[str] = []
    for is_put, key in steps:
        if is_put:
            cache.put(key, entry(ord(key)))
        found = cache.get(key)
        assert (found is not None) == ((is_put and n_entries > 0) or key in recent)
        if found is not None:
            assert found.vector[0] == ord(key)
            recent = [*(other for other in recent if other != key), key][-n_entries:]
    assert len(cache) == len(recent)


def test_a_row_keeps_no_batch_alive():
    """What is kept is a copy: changing the batch afterwards changes nothing."""
    cache = QueryCache(1)
    batch = np.zeros((100, 3), dtype=np.float32)
    cache.put("a", CachedQuery(vector=batch[0], truncated=True))
    batch[:] = 7
    kept = cache.get("a")
    assert kept is not None
    assert kept.truncated
    assert kept.vector.base is None
    assert kept.vector.tolist() == [0, 0, 0]
