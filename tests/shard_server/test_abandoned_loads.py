"""A load whose caller left is not begun beside itself, and ends where nobody wants it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shard_server import opening
from shard_server.index import ShardIndex
from shard_server.leash import Leash, run_child
from shard_server.search_thread import SearchThread
from shard_server.source import FolderSource
from shard_server.versions import Versions
from shoal.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import sys, time; sys.stdin.read(); time.sleep(600)"]


class SlowReads:
    """Reading that waits until it is let go, or its leash is cut."""

    def __init__(self):
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        self.n_now = self.n_most = self.n_all = 0

    def __call__(self, files, manifest, shard, leash):
        self.n_now += 1
        self.n_all += 1
        self.n_most = max(self.n_most, self.n_now)
        self.started.release()
        try:
            while not self.go.wait(0.005):
                leash.check()
            return ShardIndex.read(files.folder, manifest, shard)
        finally:
            self.n_now -= 1


@pytest.fixture
async def opened(tmp_path, write_index, monkeypatch):
    """Version 1 open, versions 2 and 3 in the folder; further reads are slow."""
    for n_rows in (100, 110, 120):
        write_index(tmp_path, "Flat", n_rows=n_rows)
    thread = SearchThread(max_queued=8)
    source = FolderSource(tmp_path, verify=True)
    versions = Versions(source, 0, device="cpu", gpu_temp_bytes=0, thread=thread)
    reads = SlowReads()
    reads.go.set()
    monkeypatch.setattr(opening, "read_proved", reads)
    await versions.open_first(1)
    reads.started.acquire()
    reads.go.clear()
    reads.n_all = 0
    yield versions, reads
    await versions.close()
    assert reads.n_now == 0
    await thread.close()


async def leave(versions, reads, version):
    """Ask for a version, and leave once it is being read."""
    asked = asyncio.ensure_future(versions.load("tiny", version))
    assert await asyncio.to_thread(reads.started.acquire, timeout=60)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


def numbers(versions):
    return [index.manifest.version for index in versions.open_indexes]


async def test_who_asks_again_waits_for_the_load_that_is_under_way(opened):
    """A second one beside it would need a third version's memory."""
    versions, reads = opened
    await leave(versions, reads, 2)
    again = asyncio.ensure_future(versions.load("tiny", 2))
    other = asyncio.ensure_future(versions.load("tiny", 3))
    await asyncio.wait({again, other}, timeout=0.05)
    assert reads.n_all == 1
    reads.go.set()
    assert (await again).manifest.version == 2
    assert (await other).manifest.version == 3
    assert (reads.n_all, reads.n_most) == (2, 1)
    assert numbers(versions) == [1, 2, 3]


async def test_what_nobody_waits_for_is_open_in_the_end(opened):
    """The caller that comes back finds it done."""
    versions, reads = opened
    await leave(versions, reads, 2)
    reads.go.set()
    await asyncio.wait_for(versions.load("tiny", 2), 60)
    assert (reads.n_all, numbers(versions)) == (1, [1, 2])


async def test_a_release_ends_the_load(opened):
    """A router takes back what it asked for, and can ask for another version at once."""
    versions, reads = opened
    waiting = asyncio.ensure_future(versions.load("tiny", 2))
    assert await asyncio.to_thread(reads.started.acquire, timeout=60)
    await asyncio.wait_for(versions.release("tiny", 2), 60)
    with pytest.raises(UnavailableError, match="version 2 was released"):
        await waiting
    assert (reads.n_now, numbers(versions)) == (0, [1])
    reads.go.set()
    await versions.load("tiny", 2)
    assert numbers(versions) == [1, 2]


async def test_a_process_that_stops_waits_for_no_load(opened):
    """After SIGTERM the version is nobody's any more."""
    versions, reads = opened
    await leave(versions, reads, 2)
    await asyncio.wait_for(versions.close(), 60)
    assert reads.n_now == 0


def test_a_cut_leash_ends_its_child_and_every_later_one():
    """Leaving is heard by a thread that can only wait."""
    leash = Leash()
    cutter = threading.Timer(0.2, leash.cut)
    cutter.start()
    for _ in range(2):
        with pytest.raises(UnavailableError):
            run_child(SLEEP, input=b"", timeout=100, env=os.environ, leash=leash)
    cutter.join()


def test_a_late_child_is_killed():
    """Its time is up, whatever it does."""
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(SLEEP, input=b"x", timeout=0.1, env=os.environ, leash=Leash())


@pytest.mark.parametrize("is_parent", [True, False])
def test_a_child_dies_with_its_parent(is_parent):
    """A killed server leaves no child that reads on, nor one that it had only just started."""
    told = "os.getpid()" if is_parent else "1"
    start = (
        "import os, signal, subprocess, sys\n"
        "child = 'import sys, time, signal; from shoal.parent import die_with_parent as die;'"
        "'die(int(sys.argv[1]), signal.SIGKILL); print(1, flush=True); time.sleep(600)'\n"
        f"subprocess.Popen([sys.executable, '-c', child, str({told})]).wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        if is_parent:
            assert process.stdout.readline() == b"1\n"
            process.send_signal(signal.SIGKILL)
        # the pipe ends with the last process that has it
        assert process.stdout.read() == b""
