"""The Dockerfile, by BuildKit's own parser and by hadolint, and what it takes from the checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dockerfile
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "Dockerfile"


@pytest.fixture(scope="module")
def instructions():
    """Every instruction, as Docker's own Go parser reads it."""
    return dockerfile.parse_file(str(FILE))


def _stages(instructions):
    """Instructions by stage, in order; what comes before the first is left out."""
    stages = []
    for instruction in instructions:
        if instruction.cmd == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(instruction)
    return stages


def test_hadolint_finds_nothing():
    """It parses as BuildKit does, and puts every RUN through ShellCheck."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", str(FILE)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_copies_is_in_the_checkout(instructions):
    """A COPY of a file that was moved fails on the machine that builds, not here."""
    copies = [i for i in instructions if i.cmd == "COPY" and not i.flags]
    sources = [source for copy in copies for source in copy.value[:-1]]
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert "constraints.txt" in sources


def test_the_wheel_has_every_package(instructions):
    """A package that pyproject.toml names and the first stage lacks would be missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    first, _ = _stages(instructions)
    copied = {s for i in first if i.cmd == "COPY" for s in i.value[:-1]}
    assert set(packages) | {"pyproject.toml", project["project"]["readme"], "LICENSE"} <= copied


def test_the_first_stage_builds_with_flags_that_build_knows(instructions):
    """`python -m build` is the one that the tests' environment has."""
    (line,) = [i.value[0] for i in instructions if i.cmd == "RUN" and "-m build" in i.value[0]]
    (pin,) = [p for i in instructions for p in re.findall(r"build==(\S+)", i.original)]
    known = subprocess.run(
        [sys.executable, "-m", "build", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    assert all(flag in known for flag in re.findall(r"--\w+", line))
    assert f"build=={pin}\n" in (ROOT / "constraints.txt").read_text()


def test_the_extras_that_are_installed_exist(instructions):
    """For either DEVICE: pip only warns of an extra that a wheel lacks."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (run,) = [i.value[0] for i in instructions if i.cmd == "RUN" and "pip install" in i.value[0]
              and "wheels" in i.value[0]]  # fmt: skip
    (named,) = re.findall(r'wheels\[0\]}\[([^\]]+)\]"', run)
    for shard in re.findall(r'shard="?([a-z-]+)', run):
        assert set(named.replace("$shard", shard).split(",")) <= set(extras)


def test_nothing_runs_as_root(instructions):
    """The last USER of the image is the one that every process has."""
    *_, last = _stages(instructions)
    users = [i.value[0] for i in last if i.cmd == "USER"]
    assert users[-1] == "1000"
    assert last.index(next(i for i in last if i.cmd == "USER")) < len(last) - 1


def test_ray_asks_for_tokens_in_the_image(instructions):
    """`ray start` leaves authentication off unless it is told."""
    *_, last = _stages(instructions)
    (env,) = [i.value for i in last if i.cmd == "ENV"]
    assert dict(zip(env[::2], env[1::2], strict=True))["RAY_AUTH_MODE"] == "token"


def test_there_is_no_health_check_by_decision(instructions):
    """An image of many programs has no port to ask; the one that runs is asked by its launcher."""
    (check,) = [i for i in instructions if i.cmd == "HEALTHCHECK"]
    assert check.value == ("NONE",)
