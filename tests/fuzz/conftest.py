"""The doors that all of this folder's tests knock at, and how often they do."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from fuzz.doors import Doors, open_doors


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzz:
    """How many examples, and which."""

    n_examples: int
    seed: int


@pytest.fixture
def fuzz(pytestconfig: pytest.Config) -> Fuzz:
    """From --fuzz-examples and --fuzz-seed; printed, so that a failure can be had again."""
    n_examples, seed = (pytestconfig.getoption(f"--fuzz-{name}") for name in ("examples", "seed"))
    print(f"--fuzz-examples {n_examples} --fuzz-seed {seed}", flush=True)
    return Fuzz(n_examples=n_examples, seed=seed)


@pytest.fixture(scope="package")
def _census_of_what_is_new() -> Iterator[None]:
    """Objects are counted again and again; the half million of a run that has loaded torch before
    are none that a request makes.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="package")
def doors(
    tmp_path_factory: pytest.TempPathFactory, _census_of_what_is_new: None
) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with open_doors(folder) as opened:
            yield opened
