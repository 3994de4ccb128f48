"""Who is compared under which load, and in which order. Pure.

Rule: contestants take turns within each load, in an order drawn anew each time, so that whatever
disturbs the machine meets all of them alike.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["text", "batch", "vector"]

BATCH = 32
BATCH_CLIENTS = 2
CLIENTS = (1, 8, 64)
K = 10
"""Hits a query."""
NICENESS = 5
"""Of every server: the load generator, on the same cores, must be the one that is on time."""

SHOAL = "Shoal"
FAISS = "faiss in process"
RETRIEVE = "/retrieve server"
TUNED = "/retrieve server, threads tuned"

FIELD: Mapping[Kind, tuple[str, ...]] = {
    "text": (SHOAL, RETRIEVE, TUNED, FAISS),
    "batch": (SHOAL, RETRIEVE, TUNED, FAISS),
    "vector": (SHOAL, FAISS),
}
"""Who takes part in what; a `/retrieve` server takes texts alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A closed loop of `clients`, each of which sends when it was answered."""

    kind: Kind
    clients: int

    @property
    def label(self) -> str:
        """The load in a few words."""
        what = f"{BATCH} texts a call" if self.kind == "batch" else self.kind
        return f"{what}, {self.clients} client" + "s" * (self.clients != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One contestant under one load, once."""

    load: Load
    contestant: str


LOADS = (
    *(Load(kind="text", clients=n) for n in CLIENTS),
    Load(kind="batch", clients=BATCH_CLIENTS),
    *(Load(kind="vector", clients=n) for n in CLIENTS),
)
OPEN: tuple[tuple[Kind, str], ...] = tuple(
    (kind, name) for kind in ("text", "vector") for name in FIELD[kind]
)
"""Whose highest rate is searched, in which kind of load."""


def turns(loads: Sequence[Load], n_rounds: int, seed: int) -> list[Turn]:
    """Every contestant under every load, `n_rounds` times."""
    rng = random.Random(seed)
    return [
        Turn(load=load, contestant=name)
        for _ in range(n_rounds)
        for load in loads
        for name in rng.sample(FIELD[load.kind], len(FIELD[load.kind]))
    ]
