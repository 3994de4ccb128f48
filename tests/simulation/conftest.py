"""Which schedules are played."""

import pytest


@pytest.fixture
def sim_seeds(pytestconfig: pytest.Config) -> range:
    """`--sim-schedules` seeds from 0 on, or the one that `--sim-seed` replays."""
    seed = pytestconfig.getoption("--sim-seed")
    if seed is not None:
        return range(seed, seed + 1)
    return range(pytestconfig.getoption("--sim-schedules"))
