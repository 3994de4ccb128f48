"""Files that anybody may have written: read, or refused in one line that says why."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.parsers import PARSERS, SEEDS, examine
from fuzz.wire import raw

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", PARSERS)
def test_what_once_broke_a_parser_is_refused(target):
    """Good files and old offenders: a ShoalError or a value, never Python's own exception."""
    for data in SEEDS[target]():
        examine(target, data)


@pytest.mark.parametrize("target", PARSERS)
def test_mutated_files_are_read_or_refused(target, fuzz):
    """Blind mutations of the same, where nothing guides them."""
    chance = random.Random(f"{target} {fuzz.seed}")
    seeds = [data for data in SEEDS[target]() if len(data) < 1_000]
    for _ in range(3 * fuzz.n_examples):
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 2, 5))):
            data = raw(data, chance)
        try:
            examine(target, data)
        except Exception as failure:
            failure.add_note(f"{target} of {data!r}")
            raise


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("target", PARSERS)
def test_guided_fuzzing_finds_nothing(target, fuzz, pytestconfig):
    """Atheris for a minute each, from what it found the last time (.build/fuzz)."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has wheels for x86-64 Linux alone")
    seconds = pytestconfig.getoption("--fuzz-s")
    folder = ROOT / ".build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("atheris_run.py")
    ended = subprocess.run(
        [sys.executable, script, target, f"{seconds:.0f}", str(fuzz.seed), folder],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=seconds + 120,
    )
    done = [line for line in ended.stderr.splitlines() if "stat::number_of_executed" in line]
    print(target, *done, flush=True)
    assert ended.returncode == 0, ended.stderr[-4_000:]
