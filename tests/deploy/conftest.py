"""A tiny index of bare vectors, which needs no encoder, and a state folder of the test's own."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakes.known_vectors import build_axes

ROOT = Path(__file__).resolve().parents[2]
PATIENT = ("SHOAL_ROUTER__CHECK_TIMEOUT_S", "20")
"""A process that gets no core for longer than 0.4 s is not to be left out for it."""


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory) -> Path:
    """Eight passages in two shards: passage i's vector is axis i."""
    return build_axes(tmp_path_factory.mktemp("tiny") / "index")


@pytest.fixture
def state_home(tmp_path, monkeypatch) -> Path:
    """Where this test's clusters are remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(*PATIENT)
    return tmp_path / "state" / "shoal"


@pytest.fixture(scope="session")
def run_shoal():
    """`run_shoal("up", ...)`: the command in a process of its own."""

    def run(*arguments: str, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False,
            cwd=ROOT,
        )  # fmt: skip

    return run


@pytest.fixture
def shoal(run_shoal, state_home):
    """As `run_shoal`, with a state folder of the test's own; ends what it left running."""
    yield run_shoal
    for state in state_home.glob("*.json"):
        run_shoal("down", "--name", state.stem, "--timeout-s", "5")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli.main", *arguments]


@pytest.fixture
def start_shoal(state_home):
    """Starts the command and hands over its process; kills it at the end if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def eventually():
    """`eventually(condition)`: its first true value, asked again and again for 60 s at most."""

    def wait(condition, timeout_s: float = 60.0) -> Any:
        until_s = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < until_s, f"not within {timeout_s} s"
            time.sleep(0.05)
        return value

    return wait


@pytest.fixture
def environment_of():
    """The environment that a process was started with."""

    def read(pid: int) -> dict[str, str]:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)

    return read
