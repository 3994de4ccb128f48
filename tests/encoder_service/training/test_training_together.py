"""`shoal train --processes`: the command itself, with the processes that it starts."""

import json
import os
import subprocess
import sys

import pytest

from encoder_service.source import find_model
from encoder_service.training.run import TrainingPlan, train
from encoder_service.training.settings import TrainingSettings


def command(*arguments):
    """`shoal train` on a CPU, in two processes."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "train", "--processes", "2", "--device", "cpu",
         *map(str, arguments)],
        capture_output=True, text=True, timeout=110,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture
def data(language, tmp_path):
    """The tests' language, as a file of pairs."""
    path = tmp_path / "pairs.jsonl"
    records = [
        {"query": p.question, "positive": {"title": p.positive.title, "text": p.positive.text}}
        for p in language(60)
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_two_processes_are_one_command(bert_like, language, data, tmp_path):
    """One result on stdout, one line a report, and the losses of one process alone."""
    made = command(
        "--data", data, "--out", tmp_path / "out", "--model", bert_like, "--steps", "3",
        "--batch-size", "9", "--held-out", "0.2", "--batches", "random", "--dropout", "0", "--json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["n_pairs"] > 9
    assert made.stderr.count("step 3 of 3: ") == 1
    assert all(line.startswith(("step ", "held-out ")) for line in made.stderr.splitlines())
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert find_model(str(tmp_path / "out" / "model"))
    settings = TrainingSettings(
        n_steps=3, batch_size=9, grouping="random", dropout=0.0, precision="float32"
    )
    plan = TrainingPlan(
        model=str(bert_like), out=tmp_path / "one", pairs=language(60), data=["x"],
        held_out_share=0.2, device="cpu", settings=settings,
    )  # fmt: skip
    one = train(plan, lambda _: None, lambda _: None)
    assert one is not None
    assert told["losses"] == pytest.approx(one.history.losses, rel=1e-3)


def test_bad_data_is_one_line_for_both(data, tmp_path):
    """Neither a line a process nor anybody's traceback; and no folder is begun."""
    with data.open("a") as file:
        file.write('\n{"query": "a"}')
    refused = command("--data", data, "--out", tmp_path / "out")
    assert refused.returncode == 65
    assert refused.stderr == f"shoal: error: {data}:61: no field 'positive'\n"
    assert refused.stdout == ""
    assert not (tmp_path / "out").exists()
