"""Commands that change one Ray cluster at the same time, on real Ray."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

NAMES = ("one", "two")


def test_clusters_that_are_started_at_once_both_stay_and_end(on_ray, axes_index):
    """A Serve config has all applications: who writes it must have read what the other wrote."""

    def up(name):
        return on_ray("up", "--on", "ray", "--index", str(axes_index), "--name", name)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in pool.map(up, NAMES):
            assert done.returncode == 0, done.stderr
        for name in NAMES:
            status = on_ray("status", "--name", name)
            assert status.returncode == 0, status.stdout
        for done in pool.map(lambda name: on_ray("down", "--name", name), NAMES):
            assert done.returncode == 0, done.stderr
