"""What is remembered of clusters, and what is believed of it."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from deploy.detached import end_cluster
from deploy.state import (
    ClusterState,
    ProcessState,
    hold_cluster,
    paths_of,
    read_state,
    start_time,
    write_state,
)
from shoal.errors import ConfigError, LockedError, StorageError


def state_of(pid, started, processes=()):
    return ClusterState(
        name="c", pid=pid, started=started, phase="ready", target="127.0.0.1:1", index_dir="/i",
        index="i", version=1, processes=tuple(processes),
    )  # fmt: skip


def process_of(pid, started):
    return ProcessState(
        name="shard-0a", role="shard", pid=pid, started=started, address="", n_restarts=0, log=""
    )


def save(state):
    paths = paths_of("c")
    paths.folder.mkdir(parents=True, exist_ok=True)
    write_state(paths, state)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_state_is_read_as_it_was_written(state_home):
    """Write, read: the same value; and the file is JSON under the cluster's name."""
    state = state_of(1, 2, [process_of(3, 4)])
    save(state)
    assert read_state("c") == state
    assert json.loads((state_home / "c.json").read_text())["target"] == "127.0.0.1:1"


def test_a_cluster_on_ray_has_no_launcher_and_keeps_its_name(state_home):
    """Ray keeps it up, so it lives until `down`; a local one of its name would hide it."""
    state = dataclasses.replace(state_of(0, 0), on="ray", ray_address="10.0.0.1:6379")
    save(state)
    assert state.alive
    with pytest.raises(LockedError, match="running on Ray"), hold_cluster("c"):
        pass
    assert read_state("c") == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"processes": [{"pid": 1}]}'])
def test_a_state_that_cannot_be_read_is_none(state_home, text):
    """Half a file, or another release's, must not stop a command."""
    state_home.mkdir(parents=True)
    (state_home / "c.json").write_text(text)
    assert read_state("c") is None


def test_a_pid_is_believed_only_with_its_start_time(state_home):
    """Pids are used again: another process under the same number is not the launcher."""
    mine = start_time(os.getpid())
    assert mine > 0
    assert state_of(os.getpid(), mine).alive
    assert not state_of(os.getpid(), mine + 1).alive


def test_a_finished_process_has_no_start_time():
    """Gone is gone, though nobody has waited for it yet."""
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    process.stdout.read()  # ends with the process
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert start_time(process.pid) == 0
    process.wait()
    assert start_time(process.pid) == 0


def test_one_launcher_a_name(state_home):
    """The second is refused as long as the first lives, and a dead one's state is forgotten."""
    save(state_of(999_999_999, 1))
    with hold_cluster("c") as paths:
        assert read_state("c") is None
        write_state(paths, state_of(os.getpid(), start_time(os.getpid())))
        with pytest.raises(LockedError, match=f"pid {os.getpid()}"), hold_cluster("c"):
            pass
        with hold_cluster("other"):
            pass
    assert read_state("c") is None


def test_a_name_cannot_leave_the_folder(state_home):
    """Names become file names."""
    for name in ("../x", "", "a b", "A"):
        with pytest.raises(ConfigError, match="name is"):
            paths_of(name)


def test_a_state_folder_that_cannot_be_made_is_one_error(state_home):
    """A file where the folder should be."""
    state_home.parent.mkdir(parents=True)
    state_home.write_text("")
    with pytest.raises(StorageError, match="can't write"), hold_cluster("c"):
        pass


def test_down_of_a_dead_cluster_removes_what_it_left(state_home, sleeper):
    """Orphans of a dead launcher are killed, strangers under reused pids are not."""
    started = start_time(sleeper.pid)
    save(state_of(999_999_999, 1, [process_of(os.getpid(), 1), process_of(sleeper.pid, started)]))
    assert end_cluster("c", 5.0) is not None
    assert sleeper.wait(timeout=10) < 0
    assert read_state("c") is None
    assert end_cluster("c", 5.0) is None


def test_down_of_a_launcher_that_will_not_end_kills_it(state_home, eventually):
    """SIGTERM first; when the time is over, SIGKILL."""
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    stubborn.stdout.read(1)
    save(state_of(stubborn.pid, start_time(stubborn.pid)))
    assert end_cluster("c", 0.3) is not None
    assert stubborn.wait(timeout=10) == -9
    stubborn.stdout.close()
