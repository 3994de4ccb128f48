"""One training from data to model folders: split, group, train, save, describe.

What is written: `OUT/model`, or `OUT/question` and `OUT/passage` for two networks, each a folder
that sentence-transformers, `index build --model` and the encoder service read; `OUT/training.json`
with settings and figures.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from encoder_service.roles import Role
from encoder_service.source import find_model, read_json
from encoder_service.training import card
from encoder_service.training.grouping import by_title, by_topic, joined, needs_topics
from encoder_service.training.loop import CHECKPOINTS, History, Tell, TellValidation, Training
from encoder_service.training.pairs import TrainingPair, share_golds, text_key
from encoder_service.training.settings import TrainingSettings
from encoder_service.training.trainable import TrainableTowers, load_trainable
from encoder_service.training.validation import held_out_of, split
from encoder_service.training.world import join_world
from shoal.errors import ConfigError
from shoal.formats.files import guard_storage, write_durably

REPORT = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What to train from what. `validation` None holds back a share of the pairs, by group."""

    model: str
    out: Path
    pairs: Sequence[TrainingPair]
    data: Sequence[str]
    validation: Sequence[TrainingPair] | None = None
    held_out_share: float = 0.05
    max_validation_questions: int = 1_000
    shared: bool = True
    device: str = "auto"
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
    identity = _identity(plan)
    _refuse_foreign(plan.out, identity)
    pairs, validation = share_golds(plan.pairs), plan.validation
    if validation is None:
        pairs, validation = split(
            pairs,
            share=plan.held_out_share,
            max_questions=plan.max_validation_questions,
            seed=plan.settings.seed,
        )
    held_out = held_out_of(validation)
    torch.manual_seed(plan.settings.seed)  # a plain model's missing weights are drawn at random
    towers = load_trainable(
        find_model(plan.model),
        device=world.device,
        shared=plan.shared,
        max_tokens=plan.settings.max_tokens,
        gradient_checkpointing=plan.settings.gradient_checkpointing,
    )
    training = Training(
        towers,
        pairs,
        _groups(pairs, towers, plan.settings),
        held_out,
        plan.settings,
        world=world,
        folder=plan.out,
        identity=identity,
    )
    history = training.run(tell, tell_validation)
    if not world.leads:
        return None
    with guard_storage(plan.out):
        folders = towers.save(plan.out)
        outcome = TrainingOutcome(
            folders=folders,
            model=",".join(str(folder) for folder in folders.values()),
            history=history,
            n_pairs=len(pairs),
            n_validation_questions=len(held_out.questions),
            n_validation_passages=len(held_out.passages),
        )
        about = _about(plan, training, outcome, identity)
        write_durably(plan.out / REPORT, json.dumps(about, indent=2).encode())
        for name, folder in folders.items():
            write_durably(folder / "README.md", card.describe(name, about).encode())
    return outcome


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
        keys = (pair.positive_key, *sorted(pair.gold_keys), *(n.key for n in pair.hard_negatives))
        digest.update(f"{text_key(pair.question)}:{keys};".encode())
    return digest.hexdigest()


def _refuse_foreign(out: Path, identity: str) -> None:
    """Refuses a folder that holds anything but this very training."""
    if (out / REPORT).is_file():
        if read_json(out / REPORT).get("identity") != identity:
            raise ConfigError(
                f"{out} holds another training's models; choose another --out, or --restart to "
                "throw them away"
            )
    elif out.exists() and any(path.name != CHECKPOINTS for path in out.iterdir()):
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
