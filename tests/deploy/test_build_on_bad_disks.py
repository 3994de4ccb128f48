"""`shoal index build` where the disk or another builder refuses it: the index is intact."""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from shard_server.building import verify_index
from shoal.formats.files import is_locked

ROOT = Path(__file__).resolve().parents[2]
DIM = 64
N_SMALL, N_LARGE = 500, 40_000
NOBODY = 65_534


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """What is built first, and what is too large for the disk: 0.1 and 10 MB in float32."""
    folder = tmp_path_factory.mktemp("vectors")
    drawn = np.random.default_rng(16).standard_normal((N_LARGE, DIM), dtype=np.float32)
    np.save(folder / "large.npy", drawn)
    np.save(folder / "small.npy", drawn[:N_SMALL])
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def build_command(index_dir: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli.main", "index", "build", "--index", str(index_dir),
            "--name", "tiny", *flags]  # fmt: skip


def build(index_dir: Path, *flags: str, **popen: object) -> subprocess.CompletedProcess[str]:
    """The command, with what Popen is told of limits and users."""
    return subprocess.run(
        build_command(index_dir, *flags),
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=100, check=False, cwd="/", **popen,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that tells why."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    return line.removeprefix("shoal: error: ")


def check_intact(index_dir: Path) -> None:
    """Version 1, every byte of it, and nothing that an ended build has left."""
    report = verify_index(index_dir)
    assert (report.current, report.versions, report.faults) == (1, (1,), ())
    assert report.n_unfinished_bytes == 0
    assert not [path for path in index_dir.rglob("*") if "partial" in path.name]
    assert not (index_dir / ".staging").exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory, vectors):
    """Version 1 of a small index, by the command."""
    index_dir = tmp_path_factory.mktemp("built") / "index"
    assert build(index_dir, "--vectors", str(vectors / "small.npy")).returncode == 0
    return index_dir


@pytest.fixture
def index_dir(built, tmp_path):
    """A copy of it."""
    return shutil.copytree(built, tmp_path / "index")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 10 MB; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def check_figures(told: str) -> None:
    figures = r"needs (more than )?[\d.,]+ [MG]B, and [\d.,]+ [MG]B were free as it began"
    assert re.search(figures, told), told


def test_files_that_may_not_grow_end_a_build(index_dir, vectors):
    """Fault 16: RLIMIT_FSIZE of 1 MB, as by a quota: code 74, what was needed and what was free."""
    done = build(
        index_dir, "--vectors", str(vectors / "large.npy"), "--overwrite",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    told = refused(done, 74)
    assert "can't be written: File too large" in told
    check_figures(told)
    check_intact(index_dir)


def test_a_small_disk_is_told_before_it_is_written(index_dir, vectors, small_disk):
    """Fault 16: 10 MB for a build that needs more: refused with both figures, nothing written."""
    place = shutil.copytree(index_dir, small_disk / "index")
    done = build(place, "--vectors", str(vectors / "large.npy"), "--overwrite")
    check_figures(refused(done, 74))
    check_intact(place)


def test_a_disk_that_fills_meanwhile_ends_a_build(index_dir, small_disk, tmp_path):
    """Fault 16: ENOSPC in the midst, from a corpus that is larger than the disk."""
    place = shutil.copytree(index_dir, small_disk / "index")
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w") as file:
        for number in range(N_LARGE):
            file.write(f'{{"_id": "p{number}", "title": "", "text": "{number:0400d}"}}\n')
    np.save(tmp_path / "v.npy", np.ones((N_LARGE, DIM), np.float32))
    done = build(
        place, "--corpus", str(corpus), "--vectors", str(tmp_path / "v.npy"), "--overwrite"
    )
    told = refused(done, 74)
    assert "can't be written: No space left on device" in told
    check_figures(told)
    check_intact(place)
    assert shutil.disk_usage(small_disk).used < 1 << 20


def test_a_read_only_disk_is_told(index_dir, vectors, small_disk):
    """Fault 19: code 74 and the file's name; nothing was to be tidied up."""
    place = shutil.copytree(index_dir, small_disk / "index")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = build(place, "--vectors", str(vectors / "small.npy"), "--overwrite")
    told = refused(done, 74)
    assert told.startswith(f"{place}")
    assert "can't be written: Read-only file system" in told
    check_intact(place)


@pytest.fixture
def open_folder():
    """A folder that every user may enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-bad-owner-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


AS_ANOTHER = """
import os, sys
from deploy.cli.main import run
mine, place, vectors, user = sys.argv[1:]
build = ["index", "build", "--name", "tiny", "--vectors", vectors, "--overwrite", "--index"]
# once as oneself: afterwards all that Python loads is there, wherever it may lie
code = run([*build, mine])
if code == 0:
    for folder, _, _ in os.walk(os.path.dirname(place)):
        os.chmod(folder, 0o555)
    if user:
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    code = run([*build, place])
sys.exit(code)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_of_another_owner_is_told(vectors, open_folder, exists):
    """Fault 19: neither the next version nor a new index; code 74, and the folder's name."""
    mine = open_folder / "index"
    place = mine if exists else open_folder / "new"
    small = Path(shutil.copy(vectors / "small.npy", open_folder))
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, str(mine), str(place), str(small),
         str(NOBODY) if os.geteuid() == 0 else ""],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100, check=False, cwd="/",
    )  # fmt: skip
    told = refused(done, 74)
    assert told.startswith(str(place))
    assert "can't be written: Permission denied; mend its permissions or choose" in told
    check_intact(mine)
    assert exists or not place.exists()


def test_a_second_builder_ends_at_once(tmp_path):
    """Fault 20: while the first is held up with the lock in its hand, the second ends with 75."""
    index_dir, log = tmp_path / "index", tmp_path / "log"
    os.mkfifo(log)  # the first waits where it notes what it encodes, until somebody reads that
    script = ROOT / "tests" / "fakes" / "counted_build.py"
    first = subprocess.Popen(
        [sys.executable, str(script), "build", str(index_dir), str(log)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        until_s = time.monotonic() + 60
        while not (index_dir.exists() and is_locked(index_dir)):
            assert time.monotonic() < until_s
            assert first.poll() is None
            time.sleep(0.02)
        np.save(tmp_path / "v.npy", np.ones((10, DIM), np.float32))
        done = build(index_dir, "--vectors", str(tmp_path / "v.npy"), "--overwrite")
        assert f"{index_dir}: another build is writing to it; wait for it" in refused(done, 75)
        reading = os.open(log, os.O_RDWR)  # both ways, so that it never ends
        assert first.wait(60) == 0
        os.close(reading)
    finally:
        first.kill()
        first.wait()
    check_intact(index_dir)


def test_two_that_start_together_make_one_version(tmp_path, vectors):
    """Fault 20: one of them builds; the other finds it at work, or its index there already."""
    command = build_command(tmp_path / "index", "--vectors", str(vectors / "small.npy"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        process.communicate(timeout=100)
    assert sorted(process.returncode for process in both) in ([0, 75], [0, 78])
    check_intact(tmp_path / "index")
