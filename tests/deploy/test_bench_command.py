"""`shoal bench` from its flags to its files, against a real server that answers nothing."""

import json
import os
import subprocess
import sys

import pytest

from deploy.cli.bench_parse import goal_asked, share_of, stages_asked
from deploy.cli.main import run
from shoal.bench.max_rate import Goal
from shoal.child_environment import import_environment
from shoal.errors import InvalidArgumentError

LOAD = {"arrivals": "constant", "warmup_s": 0.0, "duration_s": 1.0}


@pytest.fixture(scope="module")
def answering():
    """The address of a tiny server that takes 20 ms a call."""
    server = subprocess.Popen(
        [sys.executable, "-m", "shoal.bench.tiny_server", "0.02"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, **import_environment()},
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.communicate()


def bench(capsys, *arguments):
    """The exit code, what was written, and what was told beside it."""
    code = run(["bench", *arguments])
    written = capsys.readouterr()
    return code, written.out, written.err


def measured(capsys, *arguments):
    """As `bench`, of a run that was the server's: on a busy machine some are the generator's own,
    and say so.
    """
    for _ in range(5):
        told = bench(capsys, *arguments)
        if "the figures are its own" not in told[2]:
            break
    return told


def test_a_run_of_several_steps_is_written_and_compared(capsys, answering, tmp_path):
    """--json, --html, compare: what one writes the other reads, and a run is as good as itself."""
    page = tmp_path / "report.html"
    code, out, err = measured(
        capsys, "--target", answering, "--clients", "1,2", "--duration", "0.5", "--warmup", "0.1",
        "--recall-sample", "5", "--seed", "5", "--json", "--html", str(page),
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0, err
    assert [stage["label"] for stage in found["stages"]] == ["1 client", "2 clients"]
    assert found["seed"] == 5
    assert found["machine"]["cores"] >= 1
    assert "recall" not in found["notes"]
    assert "2 clients" in page.read_text()
    run_file = tmp_path / "a.json"
    run_file.write_text(out)
    code, out, _ = bench(capsys, "compare", str(run_file), str(run_file))
    assert code == 0
    assert "x 1.000" in out


def test_a_worse_run_ends_with_1(capsys, answering, tmp_path):
    """A script can decide by it; the line names what became worse."""
    code, out, err = measured(
        capsys, "--target", answering, "--clients", "2", "--duration", "0.4", "--warmup", "0",
        "--recall-sample", "0", "--json",
    )  # fmt: skip
    assert code == 0, err
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(out)
    found = json.loads(out)
    found["latency_ms"]["p50"] *= 1.3
    second.write_text(json.dumps(found))
    code, out, err = bench(capsys, "compare", str(first), str(second), "--threshold", "20%")
    assert code == 1
    assert "WORSE" in out
    assert "p50 ms at 2 clients" in err
    code, _, _ = bench(capsys, "compare", str(first), str(second), "--threshold", "0.4")
    assert code == 0
    code, out, _ = bench(capsys, "compare", str(first), str(second), "--json")
    assert code == 1
    assert [ratio["figure"] for ratio in json.loads(out) if ratio["worse"]] == ["p50 ms"]


def test_a_generator_that_is_the_bottleneck_ends_with_1(capsys, tmp_path, monkeypatch):
    """20 ms of its own work a call can't make 100 a second: whatever the server, such a run is the
    generator's, says so before anybody reads its figures, and fails.
    """
    (tmp_path / "slow_sender.py").write_text(
        "import time\n"
        "from contextlib import asynccontextmanager\n"
        "from shoal.bench.target import Reply, Served\n"
        "class Slow:\n"
        "    n_requests, stages = 3, ()\n"
        "    async def send(self, request, *, with_ids):\n"
        "        time.sleep(0.02)\n"
        "        return Reply(code='OK')\n"
        "    async def refuse_bad_plan(self):\n"
        "        return Served()\n"
        "@asynccontextmanager\n"
        "async def open_target(plan):\n"
        "    yield Slow()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, out, err = bench(
        capsys, "--adapter", "slow_sender:open_target", "--target", "anything", "--rate", "100",
        "--duration", "0.5", "--warmup", "0", "--recall-sample", "0", "--json",
    )  # fmt: skip
    assert code == 1
    assert "the figures are its own" in err
    found = json.loads(out)
    assert found["fault"]
    assert found["generator"]["lag_share"] > 0.05
    assert found["n_calls"] == 50


def test_one_stage_is_told_in_full(capsys, answering):
    """Every series that has calls, the rate, and how the generator did."""
    code, out, err = bench(
        capsys, "--target", answering, "--rate", "50", "--duration", "0.5", "--warmup", "0.1",
        "--arrivals", "poisson", "--workers", "2", "--recall-sample", "5",
    )  # fmt: skip
    assert code == 0 or "generator" in err  # a machine that is busy enough fails the run, rightly
    for told in ("all, from due time", "timed out", "server: search", "queries/s answered",
                 "generator: 2 workers"):  # fmt: skip
        assert told in out
    assert out.startswith(f"grpc at {answering}\n"), "it names no index: none is made up"


def test_a_recall_that_nobody_can_tell_is_refused_before_the_search(capsys, answering):
    """Every trial would miss it, for minutes, whatever the rate."""
    code, _, err = bench(
        capsys, "--target", answering, "--find-max", "--p99", "50ms", "--recall", "0.9",
        "--recall-sample", "0", "--workers", "1",
    )  # fmt: skip
    assert code == 64
    assert "--recall-sample 0" in err


def test_a_search_without_an_answer_says_why(capsys, answering):
    """A goal that nothing can meet is told as such, after every rate was tried twice."""
    code, out, err = bench(
        capsys, "--target", answering, "--find-max", "--p99", "0.5ms", "--rate", "40",
        "--duration", "0.1", "--warmup", "0", "--recall-sample", "0", "--json",
    )  # fmt: skip
    assert code == 1, "no call takes less than 20 ms"
    found = json.loads(out)["max_rate"]
    assert found["calls_per_s"] is None
    assert found["trials"][0][0] == found["trials"][1][0] == 40.0, "a miss is tried twice"
    assert all(missed for _, missed in found["trials"])
    assert found["why"] in err


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--rate", "fast"], 64, "ramp as in 50..400"),
        (["--clients", "1,x"], 64, "--clients is"),
        (["--rate", "1", "--clients", "1"], 64, "one of them"),
        (["--rate", "1", "--p99", "5ms"], 64, "goals of --find-max"),
        (["--find-max"], 64, "needs --p99"),
        (["--find-max", "--p99", "soon"], 64, "a time such as 50ms"),
        (["--find-max", "--p99", "5ms", "--recall", "2"], 64, "1 at most"),
        (["--find-max", "--p99", "5ms", "--clients", "3"], 64, "leave --clients out"),
        (["--find-max", "--p99", "5ms", "--rate", "1..9"], 64, "not at steps or a ramp"),
        (["--rate", "1", "--html", "/nonexistent/x.html"], 74, "/nonexistent/x.html"),
        (["--rate", "1", "--queries", "a", "--vectors", "b"], 64, "one of them"),
        (["--rate", "1", "--adapter", "faiss"], 64, "needs --target"),
        (["--rate", "1", "--adapter", "no:such", "--target", "x"], 64, "no:such"),
        (["--rate", "1", "--adapter", "faiss", "--target", "/nonexistent"], 78, "holds no index"),
        (
            ["--rate", "1", "--target", "http://127.0.0.1:1", "--mode", "vector"],
            64,
            "--vectors or --sample",
        ),
        (["compare", "/no.json", "/no.json"], 65, "/no.json: can't be read"),
        (["compare", "/no.json", "/no.json", "--threshold", "much"], 64, "a share such as"),
    ],
)
def test_what_can_t_be_run_is_one_line(capsys, state_home, arguments, code, what):
    """Named before anything is started, or as the target says it."""
    got, _, err = bench(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("shoal: error: ")]
    assert (got, len(lines)) == (code, 1), err
    assert what in lines[0]


def test_goals_and_thresholds_are_read_as_people_write_them():
    """Milliseconds, seconds, shares and per cents."""
    assert goal_asked("50ms", None, find_max=True) == Goal(p99_ms=50.0)
    assert goal_asked("0.05s", 0.9, find_max=True) == Goal(p99_ms=50.0, recall=0.9)
    assert goal_asked("50", None, find_max=True) == Goal(p99_ms=50.0)
    assert goal_asked(None, None, find_max=False) is None
    assert share_of("10%") == share_of("0.1") == 0.1
    for wrong in ("much", "-1", "1.5", "200%"):
        with pytest.raises(InvalidArgumentError):
            share_of(wrong)


def test_steps_and_ramps_become_stages():
    """Each with its own warm-up; a search has one, whose rate may be left open."""
    assert [s.rate for s in stages_asked("10,20", None, find_max=False, **LOAD)] == [10, 20]
    assert [s.clients for s in stages_asked(None, "1,4", find_max=False, **LOAD)] == [1, 4]
    assert stages_asked("10..40", None, find_max=False, **LOAD)[0].to_rate == 40
    assert stages_asked(None, None, find_max=True, **LOAD)[0].rate is None
