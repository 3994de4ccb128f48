"""One place refuses what no device serves, naming the field."""

import numpy as np
import pytest

from shard_server.limits import SearchParameters, check_search
from shoal.errors import InvalidArgumentError

GOOD = {"k": 10, "n_probe": 8, "candidates": 100}


@pytest.mark.parametrize(("changed", "field"), [
    ({"k": 0}, "k"), ({"k": 1001}, "k"), ({"n_probe": 0}, "n_probe"),
    ({"n_probe": 2049}, "n_probe"), ({"candidates": 2049}, "candidates"),
])  # fmt: skip
def test_parameters_out_of_range_are_named(changed, field):
    """The message names the field and the range."""
    with pytest.raises(InvalidArgumentError, match="must be") as refusal:
        check_search(SearchParameters(**GOOD | changed), np.ones((1, 4), "f4"), dim=4, n_lists=32)
    assert refusal.value.field == field


@pytest.mark.parametrize(("vectors", "says"), [
    (np.ones((1, 5), "f4"), "5 dimensions, the index has 4"),
    (np.full((1, 4), np.nan, "f4"), "finite"),
    (np.ones((1025, 4), "f4"), "1 to 1024"),
    (np.ones((0, 4), "f4"), "1 to 1024"),
])  # fmt: skip
def test_vectors_that_do_not_fit_are_refused(vectors, says):
    """A shard defends itself, though the router has checked."""
    with pytest.raises(InvalidArgumentError, match=says):
        check_search(SearchParameters(**GOOD), vectors, dim=4, n_lists=32)


def test_exact_needs_no_lists():
    """Brute force has neither n_probe nor candidates."""
    check_search(SearchParameters(k=1, exact=True), np.ones((1, 4), "f4"), dim=4, n_lists=32)
    check_search(SearchParameters(k=1), np.ones((1, 4), "f4"), dim=4, n_lists=0)
