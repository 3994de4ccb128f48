"""What all tests need: how hypothesis runs, and one seeded source of numbers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# a busy machine makes examples slow, which is no fault of theirs
settings.register_profile(
    "shoal", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shoal")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)
