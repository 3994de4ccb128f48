"""The training loop: plan, learn, validate, checkpoint; the best weights win.

A run is a function of its settings, its data and its start: killed and run again it ends with the
weights of one that nobody stopped (on the same machine; GPUs may differ in the last bits).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.training.batches import plan_epoch
from encoder_service.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from encoder_service.training.folder import CHECKPOINTS
from encoder_service.training.gradients import add_gradients
from encoder_service.training.loss import Batch, contrastive_loss, make_batch
from encoder_service.training.pairs import TrainingPair
from encoder_service.training.settings import TrainingSettings, learning_rate_at
from encoder_service.training.trainable import TrainableTowers
from encoder_service.training.validation import HeldOut, Retrieval, measure
from encoder_service.training.world import World
from shoal.errors import ConfigError

_SMOOTHING = 0.05
_NOTHING_TO_LEARN = 0.02
_PROBED_BATCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What is told after each step; `loss` and `accuracy` are smoothed over some 20 steps."""

    step: int
    n_steps: int
    loss: float
    accuracy: float
    pairs_per_s: float
    s_left: float


@dataclass(slots=True, kw_only=True)
class History:
    """What happened so far; plain values, as the checkpoint keeps them."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    """Each with `step`, `Success@k` and `MRR`."""

    @property
    def best(self) -> dict[str, float]:
        """The validation with the highest MRR, the earliest of equals."""
        return max(self.validations, key=lambda figures: (figures["MRR"], -figures["step"]))


Tell = Callable[[StepReport], None]
TellValidation = Callable[[dict[str, float]], None]


class Training:
    """One run over `pairs`, whose groups are given as numbers, -1 for none."""

    def __init__(
        self,
        towers: TrainableTowers,
        pairs: Sequence[TrainingPair],
        groups: npt.NDArray[np.int64],
        held_out: HeldOut,
        settings: TrainingSettings,
        *,
        world: World,
        folder: Path,
        identity: str,
    ) -> None:
        self._towers, self._pairs, self._groups = towers, pairs, groups
        self._held_out, self._settings, self._world = held_out, settings, world
        self._folder, self._identity = folder / CHECKPOINTS, identity
        self._passages = np.unique(
            np.array([pair.positive_key for pair in pairs], dtype=np.uint64), return_inverse=True
        )[1].astype(np.int64)
        self._temperature = settings.temperature or (0.05 if towers.normalized else 1.0)
        named = dict(towers.named_parameters())
        self._parameters = named
        decayed = [p for p in named.values() if p.ndim >= 2]
        others = [p for p in named.values() if p.ndim < 2]  # biases and norms are not pulled to 0
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay},
             {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
        )  # fmt: skip
        self._best: dict[str, Tensor] = {}
        self._epoch: tuple[int, list[npt.NDArray[np.int64]]] = (-1, [])
        self.history = History()

    @property
    def temperature(self) -> float:
        """What the inner products are divided by."""
        return self._temperature

    def run(self, tell: Tell, tell_validation: TellValidation) -> History:
        """Trains to the end, from the checkpoint where there is one; the towers hold the best.

        Raises:
            ConfigError: there is nothing to learn from these pairs, the training diverged, or the
                checkpoint is of another training.
            StorageError: a checkpoint can't be written.
        """
        step = self._resume()
        if not step:
            self.refuse_nothing()
            self._validate(0, tell_validation)
        begun_s, first = time.monotonic(), step
        while step < self._settings.n_steps and not self._exhausted():
            self._learn(step)
            step += 1
            if self._world.leads:
                tell(self._report(step, (time.monotonic() - begun_s) / (step - first)))
            ends = step == self._settings.n_steps
            if step % self._settings.validate_every == 0 or ends:
                self._validate(step, tell_validation)
            if step % self._settings.checkpoint_every == 0 or ends or self._exhausted():
                self._save(step)
        self._restore_weights(self._best)
        self._towers.evaluate()
        return self.history

    def _learn(self, step: int) -> None:
        # random numbers by step and process, so that none of their state has to be kept
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * 4_099 + self._world.rank)
        self._towers.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(step, self._settings)
        self._optimizer.zero_grad(set_to_none=True)
        made = add_gradients(
            self._batch(step),
            self._towers.encode_questions,
            self._towers.encode_passages,
            self._world,
            temperature=self._temperature,
            chunk_size=self._settings.chunk_size,
        )
        parameters = list(self._parameters.values())
        self._world.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._settings.clip_norm)
        if not (math.isfinite(made.loss) and torch.isfinite(norm)):
            raise ConfigError(
                f"step {step + 1} has a loss of {made.loss} and a gradient of {float(norm)}: the "
                "training diverged; lower the learning rate or raise the temperature"
            )
        self._optimizer.step()
        self.history.losses.append(made.loss)
        self.history.accuracies.append(made.accuracy)

    def _batch(self, step: int) -> Batch:
        per_epoch = len(self._pairs) // self._settings.batch_size
        epoch, number = divmod(step, per_epoch)
        if self._epoch[0] != epoch:
            grouped = self._settings.grouping != "random"
            plan = plan_epoch(
                self._groups,
                self._passages,
                batch_size=self._settings.batch_size,
                block_size=self._settings.block_size if grouped else 1,
                questions_per_passage=self._settings.questions_per_passage,
                seed=self._settings.seed,
                epoch=epoch,
            )
            self._epoch = (epoch, plan)
        rows = self._epoch[1][number]
        return make_batch(
            [self._pairs[row] for row in rows], n_hard_negatives=self._settings.n_hard_negatives
        )

    def refuse_nothing(self) -> None:
        """Refuses data whose negatives teach nothing, before hours are spent on it.

        Raises:
            ConfigError: there are fewer pairs than a batch, no negatives, or too easy ones.
        """
        if len(self._pairs) < self._settings.batch_size:
            raise ConfigError(
                f"{len(self._pairs)} pairs are fewer than a batch of {self._settings.batch_size}"
            )
        n_probed = min(_PROBED_BATCHES, len(self._pairs) // self._settings.batch_size)
        batches = [self._batch(step) for step in range(n_probed)]
        if any(batch.allowed.sum(axis=1).max() < 2 for batch in batches):
            raise ConfigError(
                "a batch has no negatives: raise the batch size above 1, give hard negatives "
                "(shoal mine), or look for questions that all share one passage"
            )
        self._towers.evaluate()
        with torch.no_grad():
            losses = [float(self._loss(batch)) for batch in batches]
        if max(losses) < _NOTHING_TO_LEARN:
            raise ConfigError(
                f"the loss of the untrained model is {np.mean(losses):.4f} already: these "
                "negatives are too easy to teach it anything; group the batches (--batches title "
                "or topic), enlarge them, or give hard negatives (shoal mine)"
            )

    def _loss(self, batch: Batch) -> Tensor:
        chunk = self._settings.chunk_size
        towers = self._towers
        questions = [p.question for p in batch.pairs]
        return contrastive_loss(
            torch.cat([towers.encode_questions(part) for part in _chunks(questions, chunk)]),
            torch.cat([towers.encode_passages(part) for part in _chunks(batch.passages, chunk)]),
            batch,
            temperature=self._temperature,
        ).loss

    def _validate(self, step: int, tell: TellValidation) -> None:
        figures = {
            "step": float(step),
            **_figures(measure(self._held_out, self._towers, self._world)),
        }
        self.history.validations.append(figures)
        if self.history.best["step"] == step:
            self._best = {name: p.detach().clone() for name, p in self._parameters.items()}
        if self._world.leads:
            tell(figures)

    def _exhausted(self) -> bool:
        validations = self.history.validations
        best = validations.index(self.history.best)
        return len(validations) - 1 - best >= self._settings.patience

    def _report(self, step: int, s_per_step: float) -> StepReport:
        return StepReport(
            step=step,
            n_steps=self._settings.n_steps,
            loss=_smoothed(self.history.losses),
            accuracy=_smoothed(self.history.accuracies),
            pairs_per_s=self._settings.batch_size / s_per_step,
            s_left=(self._settings.n_steps - step) * s_per_step,
        )

    def _save(self, step: int) -> None:
        if self._world.leads:
            tensors: dict[str, Tensor] = {}
            for name, parameter in self._parameters.items():
                tensors[f"weights.{name}"] = parameter.detach()
                for key, value in self._optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
            tensors |= {f"best.{name}": value for name, value in self._best.items()}
            # topics are made of vectors, whose last bits may differ on a GPU from run to run
            tensors["plan.groups"] = torch.from_numpy(self._groups)
            checkpoint = Checkpoint(
                step=step, identity=self._identity, tensors=tensors, state=asdict(self.history)
            )
            write_checkpoint(self._folder, checkpoint)
        self._world.wait()

    def _resume(self) -> int:
        """Restores the newest checkpoint; the number of steps that are done."""
        found = read_checkpoint(self._folder, self._identity)
        step = found.step if found else 0
        self._world.require_same("checkpoints in --out, which all of them must share", str(step))
        if found is None:
            return 0
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in found.tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = tensor
        self._restore_weights(parts["weights"])
        self._best = {name: t.to(self._towers.device) for name, t in parts["best"].items()}
        self._groups = parts["plan"]["groups"].numpy()
        for name, tensor in parts.get("optimizer", {}).items():
            key, _, parameter_name = name.partition(".")
            parameter = self._parameters[parameter_name]
            on = tensor if key == "step" else tensor.to(parameter.device)
            self._optimizer.state[parameter][key] = on
        self.history = History(**found.state)
        return found.step

    def _restore_weights(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self._parameters[name].copy_(value)


def _figures(retrieval: Retrieval) -> dict[str, float]:
    named: dict[str, float] = {f"Success@{k}": value for k, value in retrieval.success.items()}
    return {**named, "MRR": retrieval.mrr}


def _smoothed(values: Sequence[float]) -> float:
    recent = np.asarray(values[-100:])
    weights = (1 - _SMOOTHING) ** np.arange(len(recent))[::-1]
    return float((recent * weights).sum() / weights.sum())


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
