"""The wheel alone is the client."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from facts import FACTS

# before any fixture that a test names, the cluster among them: they start on two cores
pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.usefixtures("installing")]

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "faiss", "pyarrow", "ray")


@pytest.fixture(scope="session")
def installing(tmp_path_factory) -> Iterator["Future[Path]"]:
    """A bare install under way, for pip takes as long as the cluster that it will ask."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(install, tmp_path_factory.mktemp("bare"))


@pytest.fixture
def bare_python(installing) -> Path:
    """Of a fresh environment with the wheel and what it asks for, nothing else."""
    return installing.result()


def pip(*arguments: object) -> None:
    """Runs it; skips where it is the package index that doesn't answer."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(command, timeout=200, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index was too slow")
    if done.returncode and "after connection broken by" in done.stderr:
        pytest.skip(f"the package index can't be reached: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr


def install(folder: Path) -> Path:
    """The environment's Python."""
    pip("wheel", "--no-deps", "--wheel-dir", folder / "dist", ROOT)
    venv = [sys.executable, "-m", "venv", "--without-pip", folder / "venv"]  # ours installs into it
    subprocess.run(venv, check=True, timeout=200)
    (wheel,) = (folder / "dist").glob("shoal-*.whl")
    python = folder / "venv" / "bin" / "python"
    pip("--python", python, "install", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    return python


def test_search_works_from_the_wheel_alone(cluster, bare_python):
    """`shoal search` needs neither pyarrow, torch, faiss nor ray."""
    done = subprocess.run(
        [bare_python.with_name("shoal"), "search", "which animal is the biggest", "-k", "1",
         "--target", cluster.target, "--json"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hits"][0]["text"] == FACTS["whale"][1]


def test_the_bare_install_has_nothing_heavy(bare_python):
    """What a server needs is not what a client downloads."""
    for module in HEAVY:
        done = subprocess.run([bare_python, "-c", f"import {module}"], capture_output=True)
        assert done.returncode == 1, f"{module} came with the bare install"


def test_a_command_that_needs_more_says_what_to_install(bare_python):
    """One line, not a traceback."""
    done = subprocess.run(
        [bare_python.with_name("shoal"), "index", "verify", "--index", "x"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode != 0
    assert "pip install 'shoal[" in done.stderr
    assert "Traceback" not in done.stderr
