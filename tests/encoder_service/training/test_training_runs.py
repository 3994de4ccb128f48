"""Whole runs: that they learn, resume, stop, refuse, and leave models that serve."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from encoder_service.model import load_encoder
from encoder_service.roles import Role
from encoder_service.source import find_model
from encoder_service.training import card, loop
from encoder_service.training.loop import CHECKPOINTS
from encoder_service.training.pairs import PassageText, make_pair
from encoder_service.training.run import TrainingPlan, train
from encoder_service.training.settings import TrainingSettings, learning_rate_at
from encoder_service.training.trainable import load_trainable
from encoder_service.training.validation import Retrieval, rank_of_best, split
from shoal.errors import ConfigError

QUICK = TrainingSettings(
    n_steps=6, batch_size=8, chunk_size=4, learning_rate=1e-3, validate_every=3,
    checkpoint_every=2, grouping="random",
)  # fmt: skip


class Killed(Exception):
    pass


def ignore(_told):
    pass


def plan_of(model, out, pairs, settings=QUICK, **changes):
    return TrainingPlan(
        model=str(model), out=out, pairs=pairs, data=["letters"], device="cpu",
        held_out_share=0.2, settings=settings, **changes,
    )  # fmt: skip


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        str(path.relative_to(folder)): tensors
        for path in sorted(folder.rglob("*.safetensors"))
        if CHECKPOINTS not in path.parts
        for tensors in [load_file(path)]
    }


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first
    assert first.keys() == second.keys()
    for name, tensors in first.items():
        for key, tensor in tensors.items():
            assert np.array_equal(tensor, second[name][key]), (name, key)


def test_from_random_weights_it_learns_to_read(bert_like, language, tmp_path):
    """Far above chance on questions and passages that it never saw: 1 in 100 would be luck."""
    settings = TrainingSettings(
        n_steps=500, batch_size=32, chunk_size=32, learning_rate=3e-3, validate_every=125,
        checkpoint_every=1000, grouping="random", temperature=0.1,
    )  # fmt: skip
    validation = language(100, seed=99)
    plan = plan_of(bert_like, tmp_path / "out", language(2000), settings, validation=validation)
    outcome = train(plan, ignore, ignore)
    assert outcome.history.validations[0]["Success@1"] < 0.2
    assert outcome.history.best["Success@1"] > 0.5

    encoder = load_encoder(outcome.model, device="cpu", backend="torch")
    questions = encoder.encode([pair.question for pair in validation], Role.QUERY)
    passages = encoder.encode(
        [pair.positive.text for pair in validation], Role.PASSAGE,
        [pair.positive.title for pair in validation],
    )  # fmt: skip
    first = (questions @ passages.T).argmax(axis=1) == np.arange(len(validation))
    served = float(first.mean())
    assert served == pytest.approx(outcome.history.best["Success@1"], abs=0.03)
    library = SentenceTransformer(outcome.model, device="cpu")
    texts = [pair.question for pair in validation]
    np.testing.assert_allclose(library.encode(texts), questions, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_was_killed_ends_with_the_same_weights(bert_like, language, tmp_path, step):
    """Whatever step it dies after, with dropout on: the bits of one that nobody stopped."""
    pairs = language(60)
    train(plan_of(bert_like, tmp_path / "whole", pairs), ignore, ignore)

    def die(report):
        if report.step == step:
            raise Killed

    killed = plan_of(bert_like, tmp_path / "killed", pairs)
    with pytest.raises(Killed):
        train(killed, die, ignore)
    steps = []
    outcome = train(killed, lambda report: steps.append(report.step), ignore)
    # the step it died after told of itself before it could be kept
    kept = (step - 1) // QUICK.checkpoint_every * QUICK.checkpoint_every
    assert steps[0] == kept + 1
    assert len(outcome.history.losses) == QUICK.n_steps
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_two_towers_are_trained_apart(bert_like, language, tmp_path):
    """One start, two networks: both learn, and each has a folder that serves its side."""
    settings = replace(QUICK, n_steps=60, batch_size=16, learning_rate=3e-3, temperature=0.1,
                       validate_every=20, checkpoint_every=60)  # fmt: skip
    plan = plan_of(bert_like, tmp_path / "out", language(200), settings, shared=False)
    outcome = train(plan, ignore, ignore)
    assert outcome.history.best["step"] > 0
    assert outcome.model == f"{tmp_path / 'out' / 'question'},{tmp_path / 'out' / 'passage'}"
    encoder = load_encoder(outcome.model, device="cpu", backend="torch")
    question, passage = (encoder.encode(["a b c"], role)[0] for role in (Role.QUERY, Role.PASSAGE))
    assert not np.allclose(question, passage)
    card = (tmp_path / "out" / "question" / "README.md").read_text()
    assert "A dense encoder for questions" in card
    assert "- learning_rate: 0.003" in card


def test_two_networks_are_not_trained_as_one(bert_like, language, tmp_path):
    """One of them would be trained and kept as both, with the figures of the other."""
    both = tmp_path / "passage"
    shutil.copytree(bert_like, both)
    plan = plan_of(f"{bert_like},{both}", tmp_path / "out", language(60))
    with pytest.raises(ConfigError, match="--towers two"):
        train(plan, ignore, ignore)
    outcome = train(replace(plan, shared=False), ignore, ignore)
    assert outcome.folders.keys() == {"question", "passage"}


def test_a_run_without_negatives_is_refused(bert_like, tmp_path):
    """Every question answered by the one passage: the loss would be 0 for ever, silently."""
    passage = PassageText("", "A B C")
    pairs = [make_pair(f"a {n}", passage) for n in range(40)]
    validation = [make_pair("a b", PassageText("", "A B"))]
    plan = plan_of(bert_like, tmp_path / "out", pairs, validation=validation)
    with pytest.raises(ConfigError, match="no negatives"):
        train(plan, ignore, ignore)


def test_negatives_that_are_too_easy_are_refused(model_maker, tmp_path):
    """A loss of nearly 0 before the first step teaches nothing; the message says what would."""
    normalizing = model_maker["sentence"](tmp_path / "start")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 12)) for _ in range(60)]
    pairs = [make_pair(word, PassageText("", word)) for word in words]
    sharp = replace(QUICK, temperature=1e-4)
    with pytest.raises(ConfigError, match="too easy"):
        train(plan_of(normalizing, tmp_path / "out", pairs, sharp), ignore, ignore)


def test_it_stops_when_nothing_gets_better(bert_like, language, tmp_path):
    """Patience counts validations; the weights are the best ones', not the last."""
    idle = replace(QUICK, n_steps=40, learning_rate=1e-12, validate_every=1, patience=3)
    outcome = train(plan_of(bert_like, tmp_path / "out", language(60), idle), ignore, ignore)
    assert outcome.history.best["step"] == 0
    assert len(outcome.history.losses) == 3


def test_patience_is_counted_from_the_best(bert_like, language, tmp_path, monkeypatch):
    """Whoever still gets better goes on: the best is after 3 steps, and two more are given."""
    figures = iter([0.1, 0.2, 0.3, 0.5, 0.4, 0.5, 0.9])

    def told(*_):
        return Retrieval(success={1: 0.0}, mrr=next(figures))

    monkeypatch.setattr(loop, "measure", told)
    settings = replace(QUICK, n_steps=40, validate_every=1, patience=2)
    outcome = train(plan_of(bert_like, tmp_path / "out", language(60), settings), ignore, ignore)
    assert outcome.history.best["step"] == 3
    assert len(outcome.history.losses) == 5


def test_what_is_written_is_the_best_not_the_last(bert_like, language, tmp_path, monkeypatch):
    """Validated after 0, 3 and 6 steps, best after 3: those are the weights in the folder."""
    figures = iter([0.1, 0.5, 0.2])
    seen: list[dict[str, torch.Tensor]] = []

    def told(_held_out, towers, _world):
        seen.append({name: p.detach().clone() for name, p in towers.named_parameters()})
        return Retrieval(success={1: 0.0}, mrr=next(figures))

    monkeypatch.setattr(loop, "measure", told)
    outcome = train(plan_of(bert_like, tmp_path / "out", language(60)), ignore, ignore)
    assert outcome.history.best["step"] == 3
    saved = load_trainable(find_model(outcome.model), device=torch.device("cpu"), shared=True)
    written = dict(saved.named_parameters())
    assert all(torch.equal(written[name], weights) for name, weights in seen[1].items())
    assert not all(torch.equal(written[name], weights) for name, weights in seen[2].items())


def test_a_training_that_diverges_says_so(bert_like, language, tmp_path, monkeypatch):
    """Weights that are no numbers must never be written, nor pass for the best."""
    monkeypatch.setattr(loop, "learning_rate_at", lambda _step, _settings: float("inf"))
    with pytest.raises(ConfigError, match="diverged"):
        train(plan_of(bert_like, tmp_path / "out", language(60)), ignore, ignore)
    assert not (tmp_path / "out" / "model").exists()


def test_vectors_that_are_all_alike_or_no_numbers_find_nothing():
    """A tie is no hit: the rank is the last one that the gold passage may have."""
    assert rank_of_best(torch.tensor([0.5, 0.5, 0.5]), [1]) == 3
    assert rank_of_best(torch.full((3,), float("nan")), [1]) == 3
    assert rank_of_best(torch.tensor([0.1, 0.9, 0.9, 0.2]), [1, 2]) == 1


def test_killed_while_the_models_are_written_it_goes_on(bert_like, language, tmp_path, monkeypatch):
    """The last checkpoint is there; half a model beside it is no reason to lose it."""
    plan = plan_of(bert_like, tmp_path / "out", language(60))
    with monkeypatch.context() as patch:
        patch.setattr(card, "describe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(plan, ignore, ignore)
    assert not (tmp_path / "out" / "training.json").exists()
    steps = []
    outcome = train(plan, lambda report: steps.append(report.step), ignore)
    assert not steps
    assert (outcome.folders["model"] / "README.md").is_file()


def test_restart_throws_away_a_training_and_nothing_else(bert_like, language, tmp_path):
    """Another training takes the folder; somebody's file in it is kept, and said to be there."""
    out = tmp_path / "out"
    train(plan_of(bert_like, out, language(60)), ignore, ignore)
    other = plan_of(bert_like, out, language(60, seed=1), restart=True)
    assert train(other, ignore, ignore) is not None
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        train(other, ignore, ignore)
    assert (out / "notes.txt").read_text() == "mine"


def test_restart_throws_nothing_away_for_what_could_not_be_trained(bert_like, language, tmp_path):
    """A wrong name, the old training's own model, data without negatives: what is there stays."""
    out = tmp_path / "out"
    train(plan_of(bert_like, out, language(60)), ignore, ignore)
    before = weights_of(out)
    for model, said in ((tmp_path / "nowhere", "nowhere"), (out / "model", "throw away")):
        with pytest.raises(ConfigError, match=said):
            train(plan_of(model, out, language(60), restart=True), ignore, ignore)
    pairs = [make_pair(f"a {n}", PassageText("", "A B C")) for n in range(40)]
    validation = [make_pair("a b", PassageText("", "A B"))]
    alike = plan_of(bert_like, out, pairs, validation=validation, restart=True)
    with pytest.raises(ConfigError, match="no negatives"):
        train(alike, ignore, ignore)
    assert before
    assert before.keys() == weights_of(out).keys()
    assert (out / "training.json").is_file()


def test_a_damaged_checkpoint_is_told(bert_like, language, tmp_path):
    """A traceback of another library would not say what to do."""
    plan = plan_of(bert_like, tmp_path / "out", language(60))
    train(plan, ignore, ignore)
    (tensors,) = (tmp_path / "out" / CHECKPOINTS).glob("step-*/tensors.safetensors")
    state = tensors.with_name("state.json")
    for path in (tensors, state):
        os.truncate(path, 100)
        with pytest.raises(ConfigError, match="damaged"):
            train(plan, ignore, ignore)


def test_another_training_is_not_taken_for_this_one(bert_like, language, tmp_path):
    """Other settings or data in the same folder are refused, finished or not."""
    pairs, out = language(60), tmp_path / "out"

    def die(_report):
        raise Killed

    with pytest.raises(Killed):
        train(plan_of(bert_like, out, pairs, replace(QUICK, checkpoint_every=1)), ignore, die)
    assert not (out / "training.json").exists()
    train(plan_of(bert_like, out, pairs), ignore, ignore)
    with pytest.raises(ConfigError, match="another training"):
        train(plan_of(bert_like, out, pairs, replace(QUICK, seed=1)), ignore, ignore)
    with pytest.raises(ConfigError, match="another training"):
        train(plan_of(bert_like, out, language(60, seed=1)), ignore, ignore)


def test_the_split_shares_no_article_and_no_passage(language):
    """Else the validation would measure memory."""
    pairs = language(200)
    learned, held = split(pairs, share=0.3, max_questions=1000, seed=0)
    assert learned
    assert held
    assert not {p.group for p in learned} & {p.group for p in held}
    assert not {p.positive_key for p in learned} & {p.positive_key for p in held}


def test_a_question_with_passages_in_two_articles_is_on_one_side():
    """Held out with one of them, it must not be learned from with the other."""
    passages = [PassageText(f"t{n}", f"text {n}") for n in range(40)]
    pairs = []
    for n in range(0, 40, 2):
        golds = passages[n : n + 2]
        easy = passages[(n + 7) % 40]
        pairs += [make_pair(f"q{n}", p, golds=golds, hard_negatives=[easy]) for p in golds]
    learned, held = split(pairs, share=0.3, max_questions=1000, seed=0)
    assert learned
    assert not {p.question for p in learned} & {p.question for p in held}
    golds = {key for pair in held for key in pair.gold_keys}
    assert not golds & {p.positive_key for p in learned}
    assert not golds & {n.key for p in learned for n in p.hard_negatives}


def test_the_learning_rate_rises_and_falls():
    """Linear warm-up to the rate, then linear to zero after the last step."""
    settings = TrainingSettings(n_steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate_at(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(1 / 90)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"grouping": "random", "questions_per_passage": 2}, "questions_per_passage is 2"),
    ],
)
def test_settings_out_of_range_are_named(changes, told):
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match=told):
        replace(QUICK, **changes).check()


@pytest.mark.timeout(600)
def test_the_command_is_killed_and_goes_on(bert_like, language, tmp_path):
    """SIGKILL in the middle; the same command ends with the bits of an uninterrupted one."""
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "\n".join(
            json.dumps({"query": p.question, "positive": {"title": p.positive.title,
                                                          "text": p.positive.text}})
            for p in language(60)
        )
    )  # fmt: skip

    def command(out):
        return [
            sys.executable, "-m", "deploy.cli.main", "train", "--data", str(data), "--out",
            str(out), "--model", str(bert_like), "--steps", "40", "--batch-size", "8",
            "--checkpoint-every", "1", "--validate-every", "20", "--held-out", "0.2", "--device",
            "cpu", "--batches", "topic", "--json", "--png", str(out.with_suffix(".png")),
        ]  # fmt: skip

    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two at a time share no core
    with (
        subprocess.Popen(
            command(tmp_path / "whole"),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as whole,
        subprocess.Popen(
            command(tmp_path / "killed"),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 150
            checkpoints = tmp_path / "killed" / CHECKPOINTS
            while not list(checkpoints.glob("step-*")):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.001)  # far less than a step
            process.send_signal(signal.SIGKILL)
            process.wait()
            # beside the one that nobody stops: each has a core
            again = subprocess.run(
                command(tmp_path / "killed"), env=environment, capture_output=True, text=True,
                timeout=200,
            )  # fmt: skip
            told, error = whole.communicate(timeout=200)
        finally:
            process.kill()
            whole.kill()
    assert whole.returncode == 0, error
    assert "it/s]" not in error, "a library draws its own progress"
    told_last = (
        r"step 40 of 40: loss \d+\.\d+, in-batch accuracy [01]\.\d+, [\d.]+ pairs/s, 0 s left"
    )
    assert re.search(told_last, error)
    assert re.search(r"held-out after step 20: Success@1 [01]\.\d+, .*MRR [01]\.\d+", error)
    assert json.loads(told)["best"].keys() >= {"Success@1", "MRR"}
    assert (tmp_path / "whole.png").read_bytes().startswith(b"\x89PNG")
    assert again.returncode == 0, again.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
