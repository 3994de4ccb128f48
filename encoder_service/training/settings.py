"""How to train: the settings of one run, checked, and the learning rate of each step. Pure."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from shoal.errors import ConfigError

Grouping = Literal["auto", "title", "topic", "random"]
Precision = Literal["auto", "float32", "bfloat16"]

_MAX_SEED = 2**32 - 1  # scikit-learn's bound; a step's own seed then fits torch's 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """One run's settings. They and the data decide its weights, whatever kills it in between.

    `batch_size` pairs learn together, `chunk_size` texts are held in memory at once, `block_size`
    pairs of one group come together, up to `questions_per_passage` of them with one passage.
    `warmup` is the share of the steps that the learning rate rises over. `temperature` None is 0.05
    for towers that normalize and 1 for others. `precision` is that of the activations: bfloat16 on
    GPUs that have it, and else float32, with "auto". `dropout` None is the model's own.
    `validate_every` and `checkpoint_every` count steps; `patience` validations without a better one
    end the run.
    """

    n_steps: int
    batch_size: int = 32
    chunk_size: int = 32
    grouping: Grouping = "auto"
    block_size: int = 32
    questions_per_passage: int = 1
    n_hard_negatives: int = 1
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    temperature: float | None = None
    max_tokens: int | None = None
    precision: Precision = "auto"
    dropout: float | None = None
    seed: int = 0
    validate_every: int = 100
    patience: int = 5
    checkpoint_every: int = 50
    gradient_checkpointing: bool = False

    def check(self) -> None:
        """Raises ConfigError for a setting out of its range, naming it."""
        least = {
            "n_steps": 1, "batch_size": 1, "chunk_size": 1, "block_size": 1,
            "questions_per_passage": 1, "n_hard_negatives": 0, "seed": 0, "validate_every": 1,
            "patience": 1, "checkpoint_every": 1, "weight_decay": 0,
        }  # fmt: skip
        values = asdict(self)
        for name, minimum in least.items():
            if not minimum <= values[name] < math.inf:  # NaN neither
                raise ConfigError(f"{name} is {values[name]}; it must be {minimum} or more, finite")
        if self.seed > _MAX_SEED:
            raise ConfigError(f"seed is {self.seed}; it must be at most {_MAX_SEED}")
        for name in ("learning_rate", "clip_norm", "temperature"):
            if values[name] is not None and not 0 < values[name] < math.inf:
                raise ConfigError(f"{name} is {values[name]}; it must be above 0, and finite")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}; it must be 0 or more, and below 1")
        if self.grouping == "random" and self.questions_per_passage > 1:
            raise ConfigError(
                f"questions_per_passage is {self.questions_per_passage}, but random batches bring "
                "none together; group them by title or topic"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be 0 or more, and below 1")
        if self.max_tokens is not None and self.max_tokens < 8:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 8")


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """The rate of a step, from 0: a linear rise over the warm-up, then a linear fall to 0."""
    n_warmup = round(settings.n_steps * settings.warmup)
    if step < n_warmup:
        return settings.learning_rate * (step + 1) / n_warmup
    return settings.learning_rate * (settings.n_steps - step) / (settings.n_steps - n_warmup)
