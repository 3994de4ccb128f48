"""SIGKILL at a random moment: the old version or the new, and no work lost but a chunk's.

`pytest --seeds 50 -rP tests/shard_server/building/test_killed.py` kills at fifty moments instead of
a few, and prints where.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fakes.counted_build import CHUNK, N_BASE, N_PASSAGES, work

from shard_server.building import verify_index
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "fakes" / "counted_build.py"
PATIENCE_S = 100.0


class Undisturbed(NamedTuple):
    """What is to be killed, run to its end in its own process."""

    start: Path
    """The index before; no folder for a build."""
    old: Manifest | None
    new: Manifest
    took_s: float


def start_process(what: str, index_dir: Path, log: Path) -> subprocess.Popen[bytes]:
    """The process, once its work has begun: what comes before is Python's imports."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), what, str(index_dir), str(log)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_for(Path(f"{log}.begun"), process)
    return process


def wait_for(sign: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not sign.exists():
        assert process.poll() in {None, 0}, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Builds or adds once a session."""

    @functools.cache
    def run(what: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp(f"undisturbed-{what}")
        start, index_dir = folder / "start", folder / "index"
        old = work("base", start, folder / "base.log") if what == "add" else None
        if old:
            shutil.copytree(start, index_dir)
        process = start_process(what, index_dir, folder / "log")
        begun_s = time.monotonic()
        wait_for(Path(f"{folder / 'log'}.ended"), process)
        took_s = time.monotonic() - begun_s
        assert process.wait(PATIENCE_S) == 0, process.stderr.read().decode()
        process.stderr.close()
        assert max(Counter((folder / "log").read_text().splitlines()).values()) == 1
        return Undisturbed(start, old, load_manifest(index_dir), took_s)

    return run


def live(index_dir: Path) -> Manifest | None:
    return load_manifest(index_dir) if (index_dir / "CURRENT").exists() else None


def stages_done(index_dir: Path) -> str:
    """The stages that left something, for people."""
    names = {path.name.partition("-")[0] for path in (index_dir / ".staging").glob("*-*")}
    order = ("encode", "sample", "train", "split", "index")
    return "+".join(name for name in order if name in names) or "none"


@pytest.mark.parametrize("what", ["build", "add"])
def test_killed_at_a_random_moment(tmp_path, undisturbed, what, kill_seed: int):
    """Old or new, never neither; then the same command encodes at most one chunk again, and its
    index is the undisturbed one, hash for hash.
    """
    whole = undisturbed(what)
    index_dir, log = tmp_path / "index", tmp_path / "log"
    if whole.old:
        shutil.copytree(whole.start, index_dir)
    process = start_process(what, index_dir, log)
    delay_s = np.random.default_rng(kill_seed).uniform(0, whole.took_s)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    code = process.wait(PATIENCE_S)
    said = process.stderr.read().decode()
    process.stderr.close()
    assert code in {0, -signal.SIGKILL}, said

    found = live(index_dir)
    is_new = found is not None and found.version == whole.new.version
    print(f"killed {what}: exit {code}, {'new version' if is_new else stages_done(index_dir)}")
    if is_new:
        assert found.shards == whole.new.shards
    else:
        assert found == whole.old
        assert code != 0
    if found is not None:
        assert verify_index(index_dir).faults == ()
    if not is_new:
        found = work(what, index_dir, log)
        assert not (index_dir / ".staging").exists()
    assert (found.trained, found.shards) == (whole.new.trained, whole.new.shards)
    assert verify_index(index_dir).faults == ()

    first, end = (0, N_PASSAGES) if what == "build" else (N_BASE, N_PASSAGES + 100)
    times = Counter(int(line) for line in log.read_text().splitlines())
    assert sorted(times) == list(range(first, end))
    assert max(times.values()) <= 2
    assert len({(number - first) // CHUNK for number, n in times.items() if n == 2}) <= 1
