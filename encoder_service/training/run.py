"""One training from data to model folders: split, group, train, save, describe.

What is written: `OUT/model`, or `OUT/question` and `OUT/passage` for two networks, each a folder
that sentence-transformers, `index build --model` and the encoder service read; `OUT/training.json`
with settings and figures.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder_service.roles import Role
from encoder_service.source import ModelSource, find_model, read_json
from encoder_service.training import card
from encoder_service.training.grouping import by_title, by_topic, joined, needs_topics
from encoder_service.training.loop import CHECKPOINTS, History, Tell, TellValidation, Training
from encoder_service.training.pairs import TrainingPair, share_golds
from encoder_service.training.settings import TrainingSettings
from encoder_service.training.trainable import TrainableTowers, load_trainable
from encoder_service.training.validation import HeldOut, held_out_of, split
from encoder_service.training.world import join_world
from shoal.errors import ConfigError
from shoal.formats.files import guard_storage, write_durably

REPORT = "training.json"
_OURS = {CHECKPOINTS, REPORT, "model", "question", "passage"}


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
    identity = _identity(plan)
    source = find_model(plan.model)  # a wrong name costs no training that is there already
    if plan.restart:
        _refuse_own_start(source, plan.out)
        if world.leads:
            throw_away(plan.out)
    world.wait()
    _refuse_foreign(plan.out, identity)
    world.wait()  # before anybody writes there
    pairs, held_pairs = _parts(plan)
    held_out = held_out_of(held_pairs)
    torch.manual_seed(plan.settings.seed)  # a plain model's missing weights are drawn at random
    towers = load_trainable(
        source,
        device=world.device,
        shared=plan.shared,
        max_tokens=plan.settings.max_tokens,
        precision=plan.settings.precision,
        dropout=plan.settings.dropout,
        gradient_checkpointing=plan.settings.gradient_checkpointing,
    )
    training = Training(
        towers,
        pairs,
        world.as_led(_groups(pairs, towers, plan.settings)),
        held_out,
        plan.settings,
        world=world,
        folder=plan.out,
        identity=identity,
    )
    training.run(tell, tell_validation)
    if not world.leads:
        return None
    return _write(plan, training, towers, held_out, n_pairs=len(pairs), identity=identity)


def throw_away(out: Path) -> None:
    """Removes a training's own files.

    Raises:
        ConfigError: the folder holds anything else; nothing was removed then.
        StorageError: it isn't ours to remove.
    """
    if not out.exists():
        return
    strange = sorted(path.name for path in out.iterdir() if path.name not in _OURS)
    if strange:
        raise ConfigError(f"{out} holds {strange[0]}, which no training wrote; nothing was removed")
    with guard_storage(out):
        shutil.rmtree(out)


def _parts(plan: TrainingPlan) -> tuple[Sequence[TrainingPair], Sequence[TrainingPair]]:
    """What is learned from, and what is validated with."""
    if plan.validation is not None:
        return share_golds(plan.pairs), share_golds(plan.validation)
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
    if settings.grouping in {"topic", "random"}:
        titled[:] = -1
    topical = needs_topics(settings.grouping, titled)
    if not topical.any():
        return titled
    towers.evaluate()
    questions = [pair.question for pair, marked in zip(pairs, topical, strict=True) if marked]
    vectors = towers.encode_all(Role.QUERY, questions, None).cpu().numpy()
    return joined(titled, topical, by_topic(vectors, seed=settings.seed))


def _identity(plan: TrainingPlan) -> str:
    """What makes two trainings one: model, settings, and every word of the data in its order."""
    digest = hashlib.sha256()
    about = {
        "model": plan.model,
        "shared": plan.shared,
        "held_out_share": plan.held_out_share,
        "max_validation_questions": plan.max_validation_questions,
        "settings": asdict(plan.settings),
    }
    digest.update(json.dumps(about, sort_keys=True).encode())
    for pair in [*plan.pairs, *(plan.validation or ())]:
        passages = [(p.title, p.text) for p in (pair.positive, *pair.hard_negatives)]
        words = (pair.question, passages, sorted(pair.gold_keys), pair.group)
        digest.update(json.dumps(words).encode())
    return digest.hexdigest()


def _write(
    plan: TrainingPlan,
    training: Training,
    towers: TrainableTowers,
    held_out: HeldOut,
    *,
    n_pairs: int,
    identity: str,
) -> TrainingOutcome:
    """Writes the models, what made them, and a card for each."""
    with guard_storage(plan.out):
        folders = towers.save(plan.out)
        outcome = TrainingOutcome(
            folders=folders,
            model=",".join(str(folder) for folder in folders.values()),
            history=training.history,
            n_pairs=n_pairs,
            n_validation_questions=len(held_out.questions),
            n_validation_passages=len(held_out.passages),
        )
        about = _about(plan, training, outcome, identity)
        write_durably(plan.out / REPORT, json.dumps(about, indent=2).encode())
        for name, folder in folders.items():
            write_durably(folder / "README.md", card.describe(name, about).encode())
    return outcome


def _refuse_own_start(source: ModelSource, out: Path) -> None:
    """Refuses to throw away the very model that is to be trained."""
    for folder in (source.question, source.passage):
        if folder.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f"the training starts from {folder}, which --restart would throw away; choose "
                "another --out"
            )


def _refuse_foreign(out: Path, identity: str) -> None:
    """Refuses a folder that holds anything but this very training."""
    if (out / REPORT).is_file():
        if read_json(out / REPORT).get("identity") != identity:
            raise ConfigError(
                f"{out} holds another training's models; choose another --out, or --restart to "
                "throw them away"
            )
    elif (
        out.exists()
        and any(out.iterdir())
        # models without a report: killed while they were written, after the last checkpoint
        and not ((out / CHECKPOINTS).is_dir() and {path.name for path in out.iterdir()} <= _OURS)
    ):
        raise ConfigError(f"{out} is not empty and holds no training; choose another --out")


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
