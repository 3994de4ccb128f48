"""A recipe is one of a few, and the default fits the corpus, the shards and the device."""

import faiss
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_server.building.recipe import (
    Recipe,
    choose_recipe,
    default_n_lists,
    default_recipe,
    n_training_vectors,
)
from shard_server.limits import GPU_CODE_SIZES
from shard_server.rotation import take_apart
from shoal.errors import ConfigError


def test_small_corpora_are_searched_whole() -> None:
    """Below 10,000 passages brute force is fast enough, on both devices."""
    for target in ("cpu", "gpu"):
        assert default_recipe(n_passages=9_999, n_shards=1, dim=384, target=target) == "Flat"


@pytest.mark.parametrize(
    ("n_passages", "n_shards", "n_lists"),
    [
        (10_000, 1, 256),
        (117_659, 1, 1_024),
        (117_659, 4, 512),
        (21_000_000, 8, 8_192),
        (10_000, 256, 32),
    ],
)
def test_lists_follow_the_shards_size(n_passages: int, n_shards: int, n_lists: int) -> None:
    """4 x sqrt(passages a shard), to the nearest power of two that the corpus can train."""
    assert default_n_lists(n_passages=n_passages, n_shards=n_shards) == n_lists
    cpu = default_recipe(n_passages=n_passages, n_shards=n_shards, dim=384, target="cpu")
    gpu = default_recipe(n_passages=n_passages, n_shards=n_shards, dim=384, target="gpu")
    assert (cpu, gpu) == (f"IVF{n_lists},PQ96x4fs", f"IVF{n_lists},PQ96")


@given(st.integers(10_000, 10**9), st.integers(1, 256), st.integers(1, 4_096))
def test_every_default_is_supported(n_passages: int, n_shards: int, dim: int) -> None:
    """Whatever the corpus, the default parses, trains, and serves where it was built for."""
    for target, device in (("cpu", "cpu"), ("gpu", "cuda")):
        recipe = choose_recipe(
            None, n_passages=n_passages, n_shards=n_shards, dim=dim, target=target
        )
        assert device in recipe.devices
        assert recipe.min_training_vectors <= n_passages
        assert 1 <= recipe.default_n_probe(n_passages) <= min(recipe.n_lists, 2_048)
        sample = n_training_vectors(recipe, n_passages=n_passages, at_most=200_000)
        assert 39 * recipe.n_lists <= sample <= n_passages
        if target == "gpu":
            assert recipe.n_codes in GPU_CODE_SIZES


@pytest.mark.parametrize(
    ("text", "n_passages", "n_probe"),
    [
        ("Flat", 100, 0),
        ("PQ8x4fs", 100_000, 0),
        ("IVF8,PQ8x4fs", 1_000, 8),
        ("IVF512,PQ8x4fs", 119_193, 512),
        ("IVF512,PQ8", 262_144, 256),
        ("IVF1024,PQ8x4fs", 1_000_000, 256),
        ("IVF65536,PQ8", 100_000_000, 2_048),
        ("IVF512,SQ8", 119_193, 128),
        ("IVF512,Flat", 119_193, 128),
    ],
)
def test_small_corpora_are_scanned_whole_by_default(text, n_passages, n_probe):
    """131,072 codes of PQ are read soon enough; whole vectors, or SQ8, only a quarter of them."""
    assert Recipe.parse(text, 32).default_n_probe(n_passages) == n_probe


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("Flat", ("cpu", "cuda")),
        ("IVF8,Flat", ("cpu", "cuda")),
        ("IVF8,SQ8", ("cpu", "cuda")),
        ("IVF8,PQ8", ("cpu", "cuda")),
        ("IVF8,PQ8x4fs", ("cpu",)),
        ("IVF8,PQ6", ("cpu",)),
        ("SQ8", ("cpu",)),
        ("PQ8", ("cpu",)),
        ("PQ8x4fs", ("cpu",)),
        ("OPQ8,PQ8", ("cpu",)),
        ("PCA24,SQ8", ("cpu",)),
        ("OPQ8_32,IVF8,PQ8", ("cpu", "cuda")),
        ("OPQ8_32,IVF8,PQ8x4fs", ("cpu",)),
        ("PCA24,IVF8,PQ8", ("cpu", "cuda")),
        ("PCA24,IVF8,PQ6", ("cpu",)),
        ("PCA24,IVF8,SQ8", ("cpu", "cuda")),
    ],
)
def test_supported_recipes_are_faisss(text: str, devices: tuple[str, ...]) -> None:
    """What parses here, faiss builds with as many lists; devices follow its GPU limits."""
    recipe = Recipe.parse(text, 48)
    assert recipe.devices == devices
    index = faiss.index_factory(48, text)
    ivf = faiss.try_extract_index_ivf(index)
    assert (0 if ivf is None else ivf.nlist) == recipe.n_lists
    _, core = take_apart(index)
    assert core.d == recipe.code_dim


@pytest.mark.parametrize(
    "text",
    ["", "flat", "HNSW32", "IVF8", "IVF8,PQ8x8", "IVF0,Flat", "IVF65537,Flat", "IVF8,PQ0",
     "IVF8,PQ5", "IVF8,PQ64", "IVF8,PQ8 ", "SQ4", "Flat8", "IVF8,Flat4x4fs", "PCA32_16,SQ8", "PQ",
     "PCA32", "OPQ8_32", "PCA32,OPQ8,PQ8", "RR,SQ8", "PCA,SQ8", "OPQ8_,PQ8"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ConfigError, match=f"recipe '{text}'.*(supported are|lists must|divisor)"):
        Recipe.parse(text, 48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PCA24,Flat", "leave the transform out"),
        ("PCA49,SQ8", "1 to 48 dimensions"),
        ("PCA0,SQ8", "1 to 48 dimensions"),
        ("OPQ8_64,PQ8", "1 to 48 dimensions"),
        ("PCA24,PQ16", "divisor of the dimension 24; 6 would do"),
        ("OPQ8_33,PQ8", "divisor of the dimension 33"),
        ("OPQ8,SQ8", "take PCA48 or leave it out"),
        ("OPQ8,IVF8,Flat", "take PCA48 or leave it out"),
        ("OPQ16,PQ8", "trained for 16 codes, PQ has 8; make them the same"),
    ],
)
def test_a_refusal_says_what_to_change(text: str, message: str) -> None:
    """A recipe with a sound form and an unsound number gets the number that would do."""
    with pytest.raises(ConfigError, match=f"recipe '{text}': .*{message}"):
        Recipe.parse(text, 48)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("IVF8,PQ8x4fs", "gpu", "does not run on a GPU"),
        ("IVF8,PQ6", "gpu", "does not run on a GPU"),
        ("SQ8", "gpu", "take IVF<n> with Flat, SQ8 or 8-bit PQ"),
        ("PQ8", "gpu", "take IVF<n> with"),
        ("OPQ8_32,IVF8,PQ8x4fs", "gpu", "does not run on a GPU"),
        ("IVF8,PQ8", "cpu", "at least 256 passages"),
        ("IVF500,Flat", "cpu", "at least 500 passages"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(text: str, target: str, message: str) -> None:
    """Before anything is encoded, and with what to do."""
    with pytest.raises(ConfigError, match=message):
        choose_recipe(text, n_passages=200, n_shards=1, dim=48, target=target)
