"""What a training leaves in its folder, whoever else is there and whatever the disk says."""

import resource
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from encoder_service.source import find_model
from encoder_service.training import run
from encoder_service.training.folder import CHECKPOINTS, REPORT, hold
from encoder_service.training.loss import make_batch
from encoder_service.training.pairs import PassageText, make_pair
from encoder_service.training.run import TrainingPlan, parts_of, train
from encoder_service.training.settings import TrainingSettings, learning_rate_at
from encoder_service.training.trainable import load_trainable
from encoder_service.training.validation import (
    Retrieval,
    held_out_of,
    measure,
    split,
    without_questions_of,
)
from encoder_service.training.world import World, join_world
from shoal.errors import ConfigError, LockedError, StorageError

QUICK = TrainingSettings(
    n_steps=4, batch_size=8, chunk_size=4, learning_rate=1e-3, validate_every=2,
    checkpoint_every=2, grouping="title", block_size=4,
)  # fmt: skip


def ignore(_told):
    pass


def plan_of(model, out, pairs, **changes):
    changes = {"settings": QUICK, "held_out_share": 0.2} | changes
    return TrainingPlan(model=str(model), out=out, pairs=pairs, data=["x"], device="cpu", **changes)


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


@contextmanager
def full_disk(n_bytes):
    """No file of this process grows beyond `n_bytes`, as under a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def trained(bert_like, language, tmp_path_factory):
    """A plan whose training is done."""
    plan = plan_of(bert_like, tmp_path_factory.mktemp("trained") / "out", language(60))
    train(plan, ignore, ignore)
    return plan


def test_models_are_whole_or_absent(trained):
    """The disk refuses the second writing: the first one's models are there, and nothing else."""
    before = weights(trained.out)
    with full_disk(20_000), pytest.raises(StorageError, match=r"can't be written: File too large"):
        train(trained, ignore, ignore)
    assert same(weights(trained.out), before)
    assert {path.name for path in trained.out.iterdir()} == {CHECKPOINTS, REPORT, "model"}


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(trained, tmp_path):
    """And takes none of the room itself: the same command then ends as if nothing had been."""
    plan = replace(trained, out=tmp_path / "out")
    with ExitStack() as disk:

        def fill(report):
            if report.step == 4:
                disk.enter_context(full_disk(20_000))

        with pytest.raises(StorageError, match="File too large"):
            train(plan, fill, ignore)
    assert [path.name for path in (plan.out / CHECKPOINTS).glob("*step*")] == ["step-000002"]
    train(plan, ignore, ignore)
    assert same(weights(plan.out), weights(trained.out))


def test_two_trainings_at_once_are_one_too_many(trained, tmp_path):
    """Both would write the same checkpoints; the second is told, and breaks nothing."""
    plan = replace(trained, out=tmp_path / "out")
    with hold(plan.out):
        for restart in (False, True):
            with pytest.raises(LockedError, match="another process trains into it"):
                train(replace(plan, restart=restart), ignore, ignore)
    assert not plan.out.exists(), "who did nothing leaves nothing"
    assert train(plan, ignore, ignore) is not None


def test_a_refused_training_leaves_no_folder(bert_like, tmp_path):
    """Else the next one would find a folder that isn't empty."""
    passage = PassageText("", "A B C")
    pairs = [make_pair(f"a {n}", passage) for n in range(40)]
    settings = replace(QUICK, grouping="random")
    validation = [make_pair("a b", PassageText("", "A B"))]
    plan = plan_of(bert_like, tmp_path / "out", pairs, validation=validation, settings=settings)
    with pytest.raises(ConfigError, match="no negatives"):
        train(plan, ignore, ignore)
    assert not plan.out.exists()


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_is_no_folder(trained, tmp_path, restart):
    """Said, and left as it is."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="is no folder"):
        train(replace(trained, out=tmp_path / "out", restart=restart), ignore, ignore)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_start_that_changed_makes_another_training(trained, bert_like, tmp_path):
    """The same name, other weights: going on would mix the two."""
    start = tmp_path / "start"
    start.mkdir()
    for path in bert_like.iterdir():
        (start / path.name).write_bytes(path.read_bytes())
    plan = replace(trained, model=str(start), out=tmp_path / "out")
    train(plan, ignore, ignore)
    file = start / "model.safetensors"
    other = {name: tensor * 1.01 for name, tensor in load_file(file).items()}
    save_file(other, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="another training"):
        train(plan, ignore, ignore)


def test_decay_pulls_matrices_to_zero_and_nothing_else(trained, bert_like, tmp_path):
    """A word that never comes has no gradient: what its vector loses is the decay, by the formula
    of AdamW, (1 - rate x decay) a step; norms and biases are left alone.
    """
    settings = replace(QUICK, weight_decay=100.0, warmup=0.0)
    plan = replace(trained, out=tmp_path / "out", settings=settings)
    train(plan, ignore, ignore)
    (file,) = (plan.out / CHECKPOINTS).glob("step-*/tensors.safetensors")
    after, before = load_file(file), load_file(bert_like / "model.safetensors")

    def change(name):
        (found,) = (key for key in after if key.startswith("weights.") and key.endswith(name))
        return after[found], before[name]

    words, of_start = change("embeddings.word_embeddings.weight")
    expected = np.prod([1 - 100 * learning_rate_at(step, settings) for step in range(4)])
    np.testing.assert_allclose(words[99], of_start[99] * expected, rtol=1e-4)
    norm, of_start = change("embeddings.LayerNorm.weight")
    assert float(np.abs(norm - of_start).max()) < 0.01


def test_the_gradient_is_clipped_once_all_of_it_is_there(trained, tmp_path, monkeypatch):
    """Clipped before it is summed, its length would follow the number of processes."""
    summed = []

    def sum_gradients(_world, parameters):
        summed[:] = [each for each in parameters if each.grad is not None]
        for each in summed:
            each.grad *= 1e6

    monkeypatch.setattr(World, "sum_gradients", sum_gradients)
    plan = replace(trained, out=tmp_path / "out", settings=replace(QUICK, clip_norm=0.5))
    lengths = []

    def look(_report):
        lengths.append(float(torch.stack([each.grad.norm() for each in summed]).norm()))

    train(plan, look, ignore)
    assert lengths == pytest.approx([0.5] * 4, rel=1e-3)


def test_every_process_judges_by_the_leading_one_s_ranks(bert_like, language):
    """Else one would stop early and the others wait for it: scores may differ in the last bits."""
    pairs = language(10)

    class Second(World):
        def as_led(self, numbers):
            return np.full_like(numbers, 4)

    towers = load_trainable(find_model(str(bert_like)), device=torch.device("cpu"), shared=True)
    found = measure(held_out_of(pairs), towers, Second())
    assert found == Retrieval(success={1: 0.0, 5: 1.0, 20: 1.0}, mrr=0.25)


def test_a_training_goes_on_with_the_groups_that_it_began_with(trained, tmp_path, monkeypatch):
    """On a GPU the vectors that topics are made of may differ in the last bits by the run."""
    plan = replace(trained, out=tmp_path / "out")

    class Killed(Exception):
        pass

    def die(report):
        if report.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(plan, die, ignore)
    monkeypatch.setattr(run, "_groups", lambda pairs, *_: np.arange(len(pairs)) % 3)
    train(plan, ignore, ignore)
    assert same(weights(plan.out), weights(trained.out))


def test_a_gpu_that_is_too_small_is_told(trained, tmp_path):
    """In place of a traceback: what to lower."""

    def fill(_report):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="lower --chunk-size"):
        train(replace(trained, out=tmp_path / "out"), fill, ignore)


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch):
    """Before CUDA says that a device's number is out of range."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"more processes than GPUs on this machine \(2\)"):
        join_world()


def test_batches_of_titles_need_titles(bert_like, language, tmp_path):
    """They would be random ones, silently."""
    settings = replace(QUICK, block_size=40)
    plan = plan_of(bert_like, tmp_path / "out", language(60), settings=settings)
    with pytest.raises(ConfigError, match="no title has 40 pairs"):
        train(plan, ignore, ignore)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.999])
def test_two_titles_are_enough_for_a_split(language, share):
    """Whatever the hash draws, a title is learned from and another validates."""
    pairs = [replace(pair, group=f"t{n % 2}") for n, pair in enumerate(language(40))]
    learned, held = split(pairs, share=share, max_questions=1000, seed=0)
    assert {pair.group for pair in learned} | {pair.group for pair in held} == {"t0", "t1"}
    assert len(learned) == len(held) == 20
    alone = [pair for pair in pairs if pair.group == "t0"]
    with pytest.raises(ConfigError, match="without one: 1"):
        split(alone, share=share, max_questions=1000, seed=0)


@pytest.mark.parametrize("apart", [False, True])
def test_a_training_knows_what_answers_a_question_asked_twice(bert_like, tmp_path, apart):
    """Planted in the data under other words' case: neither passage is the other's negative."""
    passages = [PassageText("", f"text {n}") for n in range(40)]
    pairs = [make_pair(f"Question {n // 2}?", passages[n]) for n in range(40)]
    pairs[1::2] = [replace(pair, question=pair.question.upper()) for pair in pairs[1::2]]
    validation = [make_pair("else?", passages[0])] if apart else None
    plan = plan_of(bert_like, tmp_path, pairs, validation=validation, held_out_share=0.3)
    learned, _ = parts_of(plan)
    assert learned
    assert all(len(pair.gold_keys) == 2 for pair in learned)
    batch = make_batch(learned[:2], n_hard_negatives=0)
    assert batch.allowed.tolist() == [[True, False], [False, True]]


def test_what_validates_is_not_learned():
    """A question in both files, in whatever case, is learned from neither."""
    rome, turin = PassageText("", "Rome"), PassageText("", "Turin")
    learned = [make_pair("Capital?", rome), make_pair("first capital?", turin)]
    validation = [make_pair("capital?", rome)]
    assert without_questions_of(learned, validation) == learned[1:]
    with pytest.raises(ConfigError, match="every question of --data"):
        without_questions_of(learned[:1], validation)
