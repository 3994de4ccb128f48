"""One training from data to model folders: split, group, train, save, describe.

What is written: `OUT/model`, or `OUT/question` and `OUT/passage` for two networks, each a folder
that sentence-transformers, `index build --model` and the encoder service read; `OUT/training.json`
with settings and figures.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder_service.roles import Role
from encoder_service.source import ModelSource, find_model
from encoder_service.training import card
from encoder_service.training.checkpoint import guard_tensors
from encoder_service.training.folder import (
    REPORT,
    UNFINISHED,
    hold,
    identity_of,
    refuse_foreign,
    refuse_to_throw_away,
    throw_away,
)
from encoder_service.training.grouping import by_title, by_topic, joined, needs_topics
from encoder_service.training.loop import History, Tell, TellValidation, Training
from encoder_service.training.pairs import TrainingPair, share_golds
from encoder_service.training.settings import TrainingSettings
from encoder_service.training.trainable import TrainableTowers, load_trainable
from encoder_service.training.validation import (
    HeldOut,
    held_out_of,
    split,
    without_questions_of,
)
from encoder_service.training.world import World, join_world
from shoal.errors import ConfigError
from shoal.formats.files import guard_storage, write_durably


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What to train from what.

    `validation` None holds back a share of the pairs, by group; `restart` throws away what `out`
    holds of a training.
    """

    model: str
    out: Path
    pairs: Sequence[TrainingPair]
    data: Sequence[str]
    validation: Sequence[TrainingPair] | None = None
    held_out_share: float = 0.05
    max_validation_questions: int = 1_000
    shared: bool = True
    device: str = "auto"
    restart: bool = False
    settings: TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """`folders` by tower name; `model` is what `--model` takes."""

    folders: dict[str, Path]
    model: str
    history: History
    n_pairs: int
    n_validation_questions: int
    n_validation_passages: int


def train(
    plan: TrainingPlan, tell: Tell, tell_validation: TellValidation
) -> TrainingOutcome | None:
    """Trains and writes; None in every process but the first.

    Raises:
        ConfigError: settings, data or a model that can't be trained.
        StorageError: the folder can't be written.
    """
    plan.settings.check()
    world = join_world(plan.device)
    if plan.settings.batch_size < world.size:
        raise ConfigError(
            f"a batch of {plan.settings.batch_size} pairs can't be shared by {world.size} processes"
        )
    pairs, held_pairs = parts_of(plan)
    held_out = held_out_of(held_pairs)
    source = find_model(plan.model)
    towers = _load(plan, source, world)  # a wrong model costs no training that is there already
    identity = _identity(plan, towers)
    world.require_same("settings, models or data", identity)
    if plan.restart:
        refuse_to_throw_away(plan.out, source)
    else:
        refuse_foreign(plan.out, identity)
    world.wait()  # before anybody writes there
    with hold(plan.out) if world.leads else nullcontext(), _guard_memory():
        groups = world.as_led(_groups(pairs, towers, plan.settings))
        training = Training(
            towers, pairs, groups, held_out, plan.settings,
            world=world, folder=plan.out, identity=identity,
        )  # fmt: skip
        if plan.restart:
            training.refuse_nothing()  # nor does data that teaches nothing
            if world.leads:
                throw_away(plan.out)
            world.wait()
        training.run(tell, tell_validation)
        if not world.leads:
            return None
        return _write(plan, training, towers, held_out, n_pairs=len(pairs), identity=identity)


@contextmanager
def _guard_memory() -> Iterator[None]:
    """Says what to do about a GPU that is too small."""
    try:
        yield
    except torch.OutOfMemoryError as failure:
        raise ConfigError(
            "the GPU's memory is too small for this training; lower --chunk-size or --max-tokens, "
            "or give --gradient-checkpointing"
        ) from failure


def _load(plan: TrainingPlan, source: ModelSource, world: World) -> TrainableTowers:
    torch.manual_seed(plan.settings.seed)  # a plain model's missing weights are drawn at random
    return load_trainable(
        source,
        device=world.device,
        shared=plan.shared,
        max_tokens=plan.settings.max_tokens,
        precision=plan.settings.precision,
        dropout=plan.settings.dropout,
        gradient_checkpointing=plan.settings.gradient_checkpointing,
    )


def parts_of(plan: TrainingPlan) -> tuple[Sequence[TrainingPair], Sequence[TrainingPair]]:
    """What is learned from, and what is validated with; questions of the same words share what
    answers them.

    Raises:
        ConfigError: nothing would be left on one side.
    """
    if plan.validation is not None:
        validation = share_golds(plan.validation)
        return without_questions_of(share_golds(plan.pairs), validation), validation
    return split(
        share_golds(plan.pairs),
        share=plan.held_out_share,
        max_questions=plan.max_validation_questions,
        seed=plan.settings.seed,
    )


def _groups(
    pairs: Sequence[TrainingPair], towers: TrainableTowers, settings: TrainingSettings
) -> npt.NDArray[np.int64]:
    titled = by_title(pairs, at_least=settings.block_size)
    if settings.grouping == "title" and not (titled >= 0).any():
        raise ConfigError(
            f"no title has {settings.block_size} pairs of at least two passages, so that batches "
            "of one title would be random ones; lower --block-size, or give --batches topic"
        )
    if settings.grouping in {"topic", "random"}:
        titled[:] = -1
    topical = needs_topics(settings.grouping, titled)
    if not topical.any():
        return titled
    towers.evaluate()
    questions = [pair.question for pair, marked in zip(pairs, topical, strict=True) if marked]
    vectors = towers.encode_all(Role.QUERY, questions, None).cpu().numpy()
    return joined(titled, topical, by_topic(vectors, seed=settings.seed))


def _identity(plan: TrainingPlan, towers: TrainableTowers) -> str:
    about = {
        "model": plan.model,
        # by what it is, too: another training may have written it anew
        "fingerprints": [towers.question.fingerprint, towers.passage.fingerprint],
        "shared": plan.shared,
        "held_out_share": plan.held_out_share,
        "max_validation_questions": plan.max_validation_questions,
        "settings": asdict(plan.settings),
        "n_pairs": len(plan.pairs),  # behind them come those of the validation
    }
    return identity_of(about, [*plan.pairs, *(plan.validation or ())])


def _write(
    plan: TrainingPlan,
    training: Training,
    towers: TrainableTowers,
    held_out: HeldOut,
    *,
    n_pairs: int,
    identity: str,
) -> TrainingOutcome:
    """Writes the models with a card for each, and what made them when the last one is whole."""
    folders = {name: plan.out / name for name in towers.networks()}
    outcome = TrainingOutcome(
        folders=folders,
        model=",".join(str(folder) for folder in folders.values()),
        history=training.history,
        n_pairs=n_pairs,
        n_validation_questions=len(held_out.questions),
        n_validation_passages=len(held_out.passages),
    )
    about = _about(plan, training, outcome, identity)
    unfinished = plan.out / UNFINISHED
    with guard_storage(plan.out), guard_tensors(unfinished):
        try:
            for name, folder in towers.save(unfinished).items():
                write_durably(folder / "README.md", card.describe(name, about).encode())
            for name, folder in folders.items():
                shutil.rmtree(folder, ignore_errors=True)
                (unfinished / name).rename(folder)
            write_durably(plan.out / REPORT, json.dumps(about, indent=2).encode())
        finally:  # a full disk needs its room back
            shutil.rmtree(unfinished, ignore_errors=True)
    return outcome


def _about(
    plan: TrainingPlan, training: Training, outcome: TrainingOutcome, identity: str
) -> dict[str, Any]:
    history = outcome.history
    return {
        "identity": identity,
        "model": plan.model,
        "data": list(plan.data),
        "shared": plan.shared,
        "n_pairs": outcome.n_pairs,
        "n_validation_questions": outcome.n_validation_questions,
        "n_validation_passages": outcome.n_validation_passages,
        "settings": asdict(plan.settings),
        "temperature": training.temperature,
        "n_steps_done": len(history.losses),
        "before": history.validations[0],
        "best": history.best,
        "validations": history.validations,
        "losses": history.losses,
        "accuracies": history.accuracies,
    }
