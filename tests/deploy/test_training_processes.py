"""Several processes that train together: heard as one, and ended together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.training.processes import cause_of, run_together
from encoder_service.training.place import environment_of, meeting_of, parent_of
from shoal.errors import UnavailableError

_SLEEPS = """
import os, signal, sys, time
from pathlib import Path
from encoder_service.training.place import parent_of
from shoal.parent import die_with_parent
die_with_parent(parent_of(os.environ), signal.SIGKILL)
path = Path(sys.argv[1]) / os.environ["RANK"]
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
time.sleep(600)
"""

_SUPERVISES = """
import signal, sys
from deploy.training.processes import run_together
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run unattended
run_together([sys.executable, "-c", *sys.argv[1:]], 2, print)
"""


def together(script, *arguments, n=3):
    """The exit code, and the lines for stderr."""
    told: list[str] = []
    code = run_together([sys.executable, "-c", script, *map(str, arguments)], n, told.append)
    return code, told


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_each_learns_its_place_and_the_first_speaks(tmp_path, capfd):
    """Its notes as they are, its stdout as ours; the others' words would come thrice."""
    script = """
import os, pathlib, sys
rank = os.environ["RANK"]
names = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
pathlib.Path(sys.argv[1], rank).write_text(" ".join(os.environ[name] for name in names))
print("result of", rank, flush=True)
sys.stderr.write(f"step {rank} of é\\nhalf a line")
"""
    assert together(script, tmp_path) == (0, ["step 0 of é", "half a line"])
    assert capfd.readouterr().out == "result of 0\n"
    told = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert told == {"0": "0 3 3", "1": "1 3 3", "2": "2 3 3"}


def test_what_all_refuse_is_told_once():
    """Bad data is bad for each of them: one line, and its exit code."""
    told_by_each = "note\nshoal: error: a.jsonl:1: no text\n"
    script = f"import sys; sys.stderr.write({told_by_each!r}); sys.exit(65)"
    code, told = together(script)
    assert code == 65
    assert told.count("shoal: error: a.jsonl:1: no text") == 1
    assert set(told) == {"note", "shoal: error: a.jsonl:1: no text"}


def test_who_fails_first_ends_the_others(tmp_path):
    """They would wait for it for half an hour; its own words are told, whichever it was."""
    script = f"""
import os, pathlib, sys, time
if os.environ["RANK"] != "1":
    exec({_SLEEPS!r})
while len(list(pathlib.Path(sys.argv[1]).glob("?"))) < 2:
    time.sleep(0.01)
sys.stderr.write("shoal: error: disk full\\n")
sys.exit(74)
"""
    assert together(script, tmp_path) == (74, ["shoal: error: disk full"])
    assert all(is_gone(int(path.read_text())) for path in tmp_path.iterdir())


def test_who_failed_first_may_take_a_moment_to_end():
    """Another met its closed connection, and was gone sooner: as a bug, which it isn't."""
    script = """
import os, sys, time
if os.environ["RANK"] == "0":
    sys.stderr.write("shoal: error: a bug: connection closed\\n")
    sys.exit(70)
time.sleep(0.3)
sys.stderr.write("shoal: error: disk full\\n")
sys.exit(74)
"""
    assert together(script, n=2) == (74, ["shoal: error: disk full"])


def test_who_aborts_is_heard():
    """A library that ends the process says why on stderr, and nobody else does."""
    script = """
import os, sys
if os.environ["RANK"] == "1":
    sys.stderr.write("CUDA error: an assertion failed\\n")
    sys.stderr.flush()
    os.abort()
import time
time.sleep(600)
"""
    told: list[str] = []
    with pytest.raises(UnavailableError, match="process 1 of 2 was ended by SIGABRT"):
        run_together([sys.executable, "-c", script], 2, told.append)
    assert told[0] == "CUDA error: an assertion failed"


def test_a_process_that_was_killed_is_named():
    """It has no words of its own: the kernel, short of memory, gives none the time."""
    script = 'if [ "$RANK" = 2 ]; then kill -9 $$; fi; exec sleep 600'
    with pytest.raises(UnavailableError, match="process 2 of 3 was ended by SIGKILL"):
        run_together(["/bin/sh", "-c", script], 3, print)


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ([None, 0], None),
        ([70, None, -9], (2, -9)),
        ([70, 74], (1, 74)),
        ([None, 70, 70], (1, 70)),
        ([65, 65], (0, 65)),
    ],
)
def test_the_cause_is_not_who_met_a_closed_connection(codes, cause):
    """Where several have failed between two looks: what was told on purpose goes first."""
    assert cause_of(codes) == cause


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_none_outlives_who_started_them(tmp_path, tmp_path_factory, eventually, number):
    """Ctrl-C, a scheduler's SIGTERM, or a kill that nobody can handle."""
    scratch = tmp_path_factory.mktemp("scratch")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _SUPERVISES, _SLEEPS, str(tmp_path)],
        stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(scratch)},
    )  # fmt: skip
    try:
        eventually(lambda: len(list(tmp_path.glob("?"))) == 2)
        supervisor.send_signal(number)
        supervisor.wait(timeout=60)
    finally:
        supervisor.kill()
        supervisor.wait()
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    eventually(lambda: all(is_gone(pid) for pid in pids))
    if number != signal.SIGKILL:
        assert not list(scratch.iterdir())


def test_the_place_is_told_by_the_environment():
    """The operator's own threads and interface hold; nobody's place is that of one alone."""
    given = {"OMP_NUM_THREADS": "7", "HOME": "/h"}
    made = environment_of(
        given, rank=1, n_processes=4, meeting=Path("/m"), parent_pid=9, n_cores=16
    )
    assert made["OMP_NUM_THREADS"] == "7"
    assert made["HOME"] == "/h"
    assert meeting_of(made) == {"init_method": "file:///m", "rank": 1, "world_size": 4}
    assert parent_of(made) == 9
    fresh = environment_of({}, rank=0, n_processes=3, meeting=Path("/m"), parent_pid=9, n_cores=2)
    assert fresh["OMP_NUM_THREADS"] == "1"
    assert (meeting_of(given), parent_of(given)) == ({}, None)
