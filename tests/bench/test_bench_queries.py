"""What is asked: distinct, repeatable, cut into calls without leaving any out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.bench.queries import (
    MAX_GENERATED,
    batches_of,
    generated_texts,
    generated_vectors,
)


def test_made_up_questions_are_distinct_and_repeatable():
    """A cache must not know them, and the next run must ask the same."""
    texts = generated_texts(5_000, seed=1)
    assert len(set(texts)) == 5_000
    assert texts == generated_texts(5_000, seed=1)
    assert set(texts) != set(generated_texts(5_000, seed=2))
    assert len(generated_texts(MAX_GENERATED + 5, seed=1)) == MAX_GENERATED


def test_made_up_vectors_are_directions():
    """Of length 1, so that an inner product is a cosine."""
    vectors = generated_vectors(50, 16, seed=1)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors, generated_vectors(50, 16, seed=1))


@given(n=st.integers(1, 60), batch=st.integers(1, 40))
def test_every_query_is_asked(n, batch):
    """In turn, `batch` a call; only a last part is left out, and that beside a full one."""
    texts = [f"q{i}" for i in range(n)]
    calls = batches_of(texts, batch)
    assert all(len(call) == batch for call in calls)
    asked = [text for call in calls for text in call]
    assert asked[: n // batch * batch] == texts[: n // batch * batch]
    if n < batch:
        assert set(asked) == set(texts)
    as_vectors = batches_of(np.arange(n, dtype=np.float32)[:, None], batch)
    assert [[f"q{int(row[0])}" for row in call] for call in as_vectors] == list(map(list, calls))
