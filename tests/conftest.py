"""What all tests need: how hypothesis runs, and one seeded source of numbers."""

import os
import socket
from collections.abc import Iterator

# before anything loads OpenMP: its threads must not spin beside the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from shoal.garbage import collect_seldom

collect_seldom()  # with torch, faiss and all tests in memory a look takes half a second

# a busy machine makes examples slow, which is no fault of theirs; and a change is judged by the
# same examples wherever it is tested. `--hypothesis-profile explore` draws others each time
settings.register_profile(
    "explore", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("shoal", settings.get_profile("explore"), derandomize=True)
settings.load_profile("shoal")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `kill_seed` runs once for each seed."""
    if "kill_seed" in metafunc.fixturenames:
        metafunc.parametrize("kill_seed", range(metafunc.config.getoption("--seeds")))


@pytest.fixture
def dead_address() -> Iterator[str]:
    """Where nobody answers, nor anybody will: the port is taken, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=3, help="how many seeds the killing tests run")
    faults = parser.getgroup("faults")
    faults.addoption("--rate", type=float, default=50.0, help="queries a second of the open loop")
    faults.addoption("--judge-times", action="store_true", help="fail at 3 times a promised time")
    faults.addoption("--soak-s", type=float, default=600.0, help="seconds of the soak")
    faults.addoption("--soak-seed", type=int, default=None, help="replays a soak's killings")
    fuzz = parser.getgroup("fuzz")
    fuzz.addoption("--fuzz-examples", type=int, default=25, help="examples of each RPC, each way")
    fuzz.addoption("--fuzz-seed", type=int, default=1, help="which examples; replays a failure")
    fuzz.addoption("--fuzz-s", type=float, default=60.0, help="seconds that each parser is fuzzed")
    simulation = parser.getgroup("simulation")
    simulation.addoption("--sim-schedules", type=int, default=500, help="schedules to simulate")
    simulation.addoption("--sim-seed", type=int, default=None, help="replays one schedule")


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> int:
    """How many seeds a killing test runs: few in every run of the tests, 50 when asked."""
    return int(request.config.getoption("--seeds"))
