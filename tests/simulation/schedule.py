"""One seed's schedule: a cluster, its questions, and what befalls it. Values only, drawn by lot."""

import enum
import random
from dataclasses import dataclass

from simulation.corpus import N_QUESTIONS, N_VERSIONS, Corpus, corpus_of
from simulation.process import Lie

SPAN_S = 1.2
"""Within which all is asked and all faults begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call of a client; `min_coverage` None is the default, `leaves_after_s` None never."""

    at_s: float
    numbers: tuple[int, ...]
    k: int
    offset: int
    min_coverage: float | None
    timeout_s: float
    is_bulk: bool
    leaves_after_s: float | None


class Harm(enum.Enum):
    """What can befall a replica."""

    KILL = "kill"
    FREEZE = "freeze"
    SLOW = "slow"
    REFUSE = "refuse"
    LIE = "lie"
    FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`harm` from `at_s` on for `lasts_s`; `which` picks among its kinds."""

    at_s: float
    lasts_s: float
    shard: int
    replica: int
    harm: Harm
    which: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A reload; `bad` shards' first replicas can't load it."""

    at_s: float
    version: int
    timeout_s: float
    is_bad: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that happens; `is_warm`: the router has seen enough latencies to hedge."""

    seed: int
    corpus: Corpus
    n_replicas: int
    is_warm: bool
    inline_hits: int
    max_queries: int
    questions: tuple[Question, ...]
    faults: tuple[Fault, ...]
    moves: tuple[Move, ...]


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(seed)
    n_shards = chance.randint(1, 4)
    n_replicas = chance.choice([1, 2, 2, 2, 2, 3])
    n_faults = chance.choice([0, 1, 1, 2, 3, 5])
    return Schedule(
        seed=seed,
        # corpus 0 is an empty index
        corpus=corpus_of(chance.choice([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]), n_shards),
        n_replicas=n_replicas,
        is_warm=chance.random() < 0.5,
        inline_hits=chance.choice([0, 1_024, 1_024]),
        max_queries=chance.choice([4, 1_000, 1_000]),
        questions=tuple(_question(chance, at_s) for at_s in _arrivals(chance)),
        faults=tuple(_fault(chance, n_shards, n_replicas) for _ in range(n_faults)),
        moves=tuple(_move(chance) for _ in range(chance.choice([0, 0, 0, 1, 1, 2]))),
    )


def _arrivals(chance: random.Random) -> list[float]:
    n_questions = chance.choice([4, 8, 8, 16])
    if chance.random() < 0.2:  # all at once
        burst_s = chance.uniform(0.0, SPAN_S)
        return [burst_s + chance.uniform(0.0, 0.01) for _ in range(n_questions)]
    return [chance.uniform(0.0, SPAN_S) for _ in range(n_questions)]


def _question(chance: random.Random, at_s: float) -> Question:
    return Question(
        at_s=at_s,
        numbers=tuple(chance.randrange(N_QUESTIONS) for _ in range(chance.choice([1, 1, 1, 3]))),
        k=chance.choice([1, 3, 10, 40]),
        offset=chance.choice([0, 0, 0, 2]),
        min_coverage=chance.choice([None, 1.0, 0.0, 0.0, 0.5, chance.random()]),
        timeout_s=chance.choice([0.003, 0.05, 0.3, 1.0, 1.5]),
        is_bulk=chance.random() < 0.1,
        leaves_after_s=chance.uniform(0.0, 0.1) if chance.random() < 0.1 else None,
    )


def _fault(chance: random.Random, n_shards: int, n_replicas: int) -> Fault:
    return Fault(
        at_s=chance.uniform(0.0, SPAN_S),
        lasts_s=chance.choice([0.02, 0.3, 1.0, 3.0]) * chance.random(),
        shard=chance.randrange(n_shards),
        replica=chance.randrange(n_replicas),
        harm=chance.choice(list(Harm)),
        which=chance.randrange(len(Lie)),
        factor=chance.choice([3.0, 30.0, 300.0]),
    )


def _move(chance: random.Random) -> Move:
    return Move(
        at_s=chance.uniform(0.0, SPAN_S),
        version=chance.randint(1, N_VERSIONS + 1),  # the last one is in nobody's folder
        timeout_s=chance.choice([0.1, 2.0, 10.0]),
        is_bad=chance.random() < 0.15,
    )
