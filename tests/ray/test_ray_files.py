"""A replica's files: whose they are, and who takes them away."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from faults.processes import exists

from deploy.ray.files import ReplicaFiles
from deploy.state import start_time


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "shoal" / "wiki.ray"


def test_what_a_killed_supervisor_left_is_taken_away_by_the_next(folder):
    """A token must not lie there for ever; its log may be what somebody looks for."""
    killed = ReplicaFiles("wiki", "shard-0.a")
    killed.prepare("secret")
    killed.log.write_text("last words")
    killed._lock.close()  # as the kernel does
    living = ReplicaFiles("wiki", "shard-0.b")
    living.prepare("secret")
    assert not killed.token.exists()
    assert killed.log.read_text() == "last words"
    assert living.token.read_text() == "secret\n"
    living.remove()
    assert not folder.exists()


def test_files_of_the_living_stay(folder):
    """Replicas of one node share the folder, and end at different times."""
    one, two = ReplicaFiles("wiki", "shard-0.a"), ReplicaFiles("wiki", "shard-0.b")
    one.prepare("secret")
    two.prepare("secret")
    two.log.write_text("x")
    one.remove()
    assert two.token.exists()
    assert two.log.exists()
    two.remove()
    assert not folder.exists()


@pytest.fixture
def hung() -> Iterator[subprocess.Popen[bytes]]:
    """A child that is stopped: no signal but SIGKILL ends it."""
    process = subprocess.Popen(["sleep", "600"])
    os.kill(process.pid, signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


async def test_a_child_that_hangs_after_its_supervisor_was_killed_is_ended_by_the_next(hung):
    """It would keep its memory, and its GPU, until somebody looks; one that drains has its time."""
    killed, living = ReplicaFiles("wiki", "shard-0.a"), ReplicaFiles("wiki", "shard-0.b")
    killed.prepare("secret")
    killed.note_child(hung.pid, start_time(hung.pid))
    other = ReplicaFiles("wiki", "shard-1.c")
    other.prepare("secret")  # looks at the lock of one that lives
    killed._lock.close()
    living.prepare("secret")
    assert exists(hung.pid)
    await living.end_orphans(0.0)
    assert hung.wait(60) == -signal.SIGKILL
    living.remove()
    other.remove()
    assert not killed.token.exists()


async def test_a_pid_that_is_anothers_by_now_is_left_alone(hung):
    """Pids are used again."""
    killed, living = ReplicaFiles("wiki", "shard-0.a"), ReplicaFiles("wiki", "shard-0.b")
    killed.prepare("secret")
    killed.note_child(hung.pid, start_time(hung.pid) - 1)
    killed._lock.close()
    living.prepare("secret")
    await living.end_orphans(0.0)
    assert hung.poll() is None
    assert not killed.token.exists()
    living.remove()
