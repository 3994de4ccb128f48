"""What a run notes of itself."""

import pytest

from encoder_service.config import EncoderConfig
from shoal.bench.plan import LoadPlan
from shoal.bench.queries import N_TEXTS, generated_texts
from shoal.bench.session import repeats


def plan(n_texts, batch=1):
    return LoadPlan(target="x:1", clients=1, batch=batch, texts=generated_texts(n_texts, 0))


@pytest.mark.parametrize(
    ("n_texts", "batch", "n_calls", "is_noted"),
    [(100, 1, 100, False), (100, 1, 101, True), (100, 10, 11, True), (N_TEXTS, 1, 10**6, False)],
)
def test_questions_that_come_again_are_noted(n_texts, batch, n_calls, is_noted):
    """An encoder that knows them answers from its cache, and text would look as fast as vectors."""
    assert bool(repeats(plan(n_texts, batch), n_calls)) is is_noted


def test_a_file_of_vectors_has_nothing_to_note():
    """Nobody encodes them."""
    asked = LoadPlan(target="x:1", clients=1, vectors_file="q.npy")
    assert repeats(asked, 10**6) == ()


def test_the_questions_of_a_run_are_more_than_the_cache_keeps():
    """Least recently used leaves first: of a longer list asked in turn it never knows the next."""
    kept = EncoderConfig.model_fields["cache_entries"].default
    assert 2 * kept <= N_TEXTS
    assert len(set(generated_texts(N_TEXTS, 1))) == N_TEXTS
