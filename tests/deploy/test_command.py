"""The command: every failure one line and its exit code, and the bare install enough to search."""

import json
import re
import subprocess
import sys
import time

import pytest
import typer

from deploy.cli.main import explain, run
from deploy.cli.output import counted, progress, write_json, write_table
from shoal import __version__, errors
from shoal.config import UNSET


@pytest.fixture
def failing(capsys):
    """Runs the command; returns its exit code and the one line on stderr."""

    def fail(*arguments):
        code = run(arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        errors_told = [line for line in lines if line.startswith("shoal: error: ")]
        assert len(errors_told) == 1, lines
        return code, errors_told[0]

    return fail


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["search", "x", "--nope"], 64, "--nope"),
        (["search"], 64, "Missing argument"),
        (["search", "x", "-k", "many"], 64, "'-k'"),
        (["nonsense"], 64, "nonsense"),
        (["search", "x", "--target", "127.0.0.1:1"], 69, "no server answers at 127.0.0.1:1"),
        (["bench", "--rate", "1", "--target", "127.0.0.1:1"], 69, "127.0.0.1:1 is not ready"),
        (["bench", "--target", "127.0.0.1:1"], 64, "one of them"),
        (["status"], 69, "no cluster 'default' is running"),
        (["status", "--name", "../x"], 78, "name is"),
        (["search", "x", "--timeout-s", "0"], 64, "timeout_s is 0.0"),
        (["search", "x", "--timeout-s", "nan"], 64, "timeout_s is nan"),
        (["bench", "--rate", "1", "--timeout-s", "inf"], 64, "timeout_s is inf"),
        (["search", "x", "--target", ""], 64, "--target must be HOST:PORT"),
        (["search", "x", "--target", "localhost:99999"], 64, "not 'localhost:99999'"),
        (["bench", "--rate", "1", "--target", "x"], 64, "--target must be HOST:PORT"),
        (["search", "x", "--name", "nosuch"], 69, "no cluster 'nosuch' is running"),
        (["search", "x", "--name", "default"], 69, "no cluster 'default' is running"),
        (["bench", "--rate", "1", "--name", "nosuch"], 69, "no cluster 'nosuch' is running"),
        (
            ["eval", "--queries", "/no.tsv", "--qrels", "/no.tsv", "--name", "nosuch"],
            69,
            "no cluster 'nosuch' is running",
        ),
        (
            ["index", "build", "--corpus", "x", "--index", "/nonexistent", "--encoders", "2"],
            78,
            "--encoders and --ray-address are for --on ray",
        ),
        (
            [
                "index",
                "build",
                "--corpus",
                "x",
                "--index",
                "/nonexistent",
                "--on",
                "ray",
                "--device",
                "cuda:1",
            ],
            78,
            "Ray gives each encoder its GPU; say auto or cpu",
        ),
        (
            ["index", "build", "--corpus", "x", "--index", "/nonexistent", "--on", "spark"],
            64,
            "spark",
        ),
        (["up", "--index", "/nonexistent"], 78, "/nonexistent holds no index"),
        (["index", "verify", "--index", "/nonexistent"], 78, "/nonexistent"),
        (["index", "inspect", "--index", "/nonexistent"], 78, "/nonexistent"),
        (["index", "versions", "--index", "/nonexistent"], 78, "/nonexistent holds no index"),
        (["index", "rollback", "--index", "/nonexistent"], 78, "/nonexistent holds no index"),
        (["index", "prune", "--index", "/nonexistent"], 78, "/nonexistent holds no index"),
        (["index", "add", "--index", "/nonexistent", "--corpus", "x"], 78, "holds no index"),
        (["reload"], 69, "no cluster 'default' is running"),
        (["eval", "--queries", "/no.tsv", "--qrels", "/no.tsv"], 65, "/no.tsv: can't be read"),
        (["config", "show", "nothing"], 64, "no process 'nothing'"),
        (["config", "show", "shard_server", "--shard", "-1"], 78, "setting shard:"),
    ],
)
def test_a_failure_is_one_line_and_its_code(failing, state_home, arguments, code, what):
    """sysexits.h's codes, and a message that names what was wrong."""
    got, line = failing(*arguments)
    assert got == code
    assert what in line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["index"], ["config"], ["search", "--help"]])
def test_help_is_no_failure(capsys, arguments):
    """Asking what there is ends with 0, and the top tells the exit codes."""
    assert run(arguments) == 0
    assert "Usage: shoal" in capsys.readouterr().out
    run([])
    assert "sysexits.h" in capsys.readouterr().out


def test_the_commands_are_these(capsys):
    """The surface that scripts rely on."""
    run(["--help"])
    listed = capsys.readouterr().out.partition("Commands:")[2].partition("Exit codes")[0]
    commands = set(re.findall(r"^  (\w+)", listed, re.MULTILINE))
    assert commands == {
        "search", "up", "status", "reload", "down", "eval", "bench", "index", "config", "token",
        "train", "mine", "doctor", "scale", "attach",
    }  # fmt: skip


def test_version(capsys):
    """`shoal --version` names the release."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"shoal {__version__}\n"


def test_a_bug_is_told_in_one_line():
    """What nobody foresaw is a bug with its name, not a traceback."""
    assert explain(ZeroDivisionError("x")) == (
        "a bug: ZeroDivisionError: x; SHOAL_TRACEBACK=1 shows where", 70)  # fmt: skip
    assert explain(KeyboardInterrupt()) == ("interrupted", 130)
    named = errors.NotFoundError("no index 'x'", request_id="r")
    assert explain(named) == ("no index 'x' (request r)", 66)


def test_ctrl_c_is_told_in_one_line(failing, monkeypatch):
    """The command's own exit code, and words: a script's log shows who ended it."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def works() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.cli.main.app", app)
    assert failing() == (130, "shoal: error: interrupted")


def test_a_missing_extra_is_named():
    """The module that isn't there leads to what to install."""
    message, code = explain(ModuleNotFoundError("x", name="faiss.swigfaiss"))
    assert code == 78
    assert "pip install 'shoal[shard]'" in message


def test_the_bare_install_can_search():
    """Without any server's packages `shoal search` gets as far as the network."""
    heavy = ["torch", "faiss", "pyarrow", "transformers", "sentence_transformers", "onnxruntime",
             "prometheus_client", "yaml", "ir_measures", "hdrh", "ray", "grpc_reflection",
             "pydantic_settings"]  # fmt: skip
    code = (
        "import sys\n"
        f"for name in {heavy!r}: sys.modules[name] = None\n"
        "from deploy.cli.main import run\n"
        "sys.exit(run(['search', 'x', '--target', '127.0.0.1:1']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 69, done.stderr
    assert "no server answers" in done.stderr


def test_a_command_that_asks_nothing_loads_no_client():
    """`shoal status` is typed all day: numpy and the messages were two thirds of its start."""
    code = "import sys, deploy.cli.main; print({'numpy', 'google.protobuf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_config_show_prints_what_a_process_would_run_with(capsys, monkeypatch, tmp_path):
    """File, environment and flags, each over the one before."""
    (tmp_path / "router.yaml").write_text("topology: from-file\nport: 1\nhost: localhost\n")
    monkeypatch.setenv("SHOAL_ROUTER__PORT", "2")
    arguments = ["config", "show", "--json", "router", "--config", str(tmp_path / "router.yaml")]
    assert run([*arguments, "--host", "127.0.0.1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["topology"], shown["port"], shown["host"]) == ("from-file", 2, "127.0.0.1")


@pytest.mark.parametrize(
    ("process", "required"),
    [
        ("shard_server", {"index", "shard"}),
        ("encoder_service", {"model"}),
    ],
)
def test_config_show_needs_no_settings(capsys, process, required):
    """Who asks what there is to set hasn't set it yet: the rest is shown with its defaults."""
    assert run(["config", "show", "--json", process]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name for name, value in shown.items() if value == UNSET} == required
    assert shown["host"] == "127.0.0.1"
    assert run(["config", "show", process]) == 0
    assert f"{min(required)}: {UNSET}\n" in capsys.readouterr().out


def test_tables_line_up(capsys):
    """Columns as wide as their widest cell; numbers to the right."""
    write_table(("name", "n"), [("a", 1), ("long name", 100)])
    assert capsys.readouterr().out == "name         n\na            1\nlong name  100\n"


def test_json_has_no_more_digits_than_a_score(capsys):
    """Floats keep seven digits, wherever they stand; whole numbers and texts stay as they are."""
    write_json({"a": [0.1 + 0.2, (1 / 3,)], "b": 2**60, "c": "0.30000000000000004", "d": True})
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "a": [0.3, [0.3333333]], "b": 2**60, "c": "0.30000000000000004", "d": True
    }  # fmt: skip


@pytest.mark.parametrize(("n", "told"), [(0, "0 hits"), (1, "1 hit"), (2_000, "2,000 hits")])
def test_one_is_no_plural(n, told):
    """Counts read as people write them."""
    assert counted(n, "hit") == told


@pytest.mark.parametrize(("recipe", "what"), [
    ("IVF64,PQ7x5", "not supported"), ("PCA3_2,SQ8", "not supported"), ("nonsense", "IVF<n>,Flat"),
])  # fmt: skip
def test_a_recipe_is_refused_before_a_model_is_loaded(failing, tmp_path, recipe, what):
    """The model isn't even there: what is wrong with the recipe is told first."""
    code, line = failing(
        "index", "build", "--corpus", "python-docs", "--index", str(tmp_path / "x"),
        "--model", str(tmp_path / "no-model"), "--recipe", recipe,
    )  # fmt: skip
    assert (code, what in line) == (78, True), line


@pytest.mark.parametrize("module", ["router", "shard_server"])
def test_a_process_s_wrong_flag_is_wrong_usage(module):
    """The same exit code and one line as a command's."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--bogus"], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (64, 1), done.stderr
    assert "--bogus" in done.stderr


def test_progress_tells_what_was_kept(capsys):
    """Work of an earlier run is named once, and is no part of this run's rate."""
    with progress() as show:
        show("kept encode", 4_000_000, 4_000_000)
        show("encode", 4_000_000, 4_000_001)
        time.sleep(0.01)
        show("encode", 4_000_001, 4_000_001)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encode: 4,000,000 kept from an earlier, interrupted run"
    rate = re.search(r"\(([0-9,]+)/s\)", lines[-1])
    assert int(rate[1].replace(",", "")) <= 100


def test_progress_ends_with_a_line_a_stage(capsys):
    """Off a terminal, a stage's end is always told, with its rate."""
    with progress() as show:
        show("read", 5, None)
        show("encode", 10, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("encode: 10 of 10")
