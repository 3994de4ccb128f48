"""The canary's decisions: what to have encoded, when, and what the vectors prove. No sockets.

A fingerprint says which model an encoder loaded; only vectors say that it still computes as it did
when the index was built (a GPU's memory may rot, a service may lie). So the router has the probe
texts that the index recorded encoded now and then, and looks at the vectors.

Shard servers hold the probes. They are asked for once a fingerprint, not with every check: eight
vectors are some twenty times the rest of what a shard tells of itself.
"""

from dataclasses import dataclass

from shoal.contract import EncoderContract, TowerContract, tower_fault
from shoal.vectors import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What a question tower must make of its probe texts, and the cosine it must keep."""

    tower: TowerContract
    min_cosine: float

    @property
    def texts(self) -> tuple[str, ...]:
        """To be encoded as questions."""
        return self.tower.probe_texts

    def fault(self, probe_vectors: Matrix) -> str:
        """Why these vectors, float32 (n, dim), are not the tower's; empty where they are."""
        return tower_fault(self.tower, probe_vectors, self.min_cosine)


class ProbeBook:
    """The probes of every question tower that an index here was built with, by fingerprint."""

    def __init__(self) -> None:
        self._known: dict[str, Probes] = {}

    def get(self, fingerprint: str) -> Probes | None:
        """The tower's probes; None where no shard has told them."""
        return self._known.get(fingerprint)

    def learn(self, contract: EncoderContract) -> None:
        """Keeps what a shard told; a contract without probes teaches nothing."""
        tower = contract.question
        if tower.probe_texts and len(tower.probe_vectors) == len(tower.probe_texts):
            self._known.setdefault(
                tower.fingerprint, Probes(tower=tower, min_cosine=contract.min_cosine)
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the last canary found: `fault` is empty where the vectors were right."""

    fingerprint: str
    at_s: float
    fault: str

    def stands(self, fingerprint: str, now_s: float, canary_s: float) -> bool:
        """Whether it still speaks for the encoder, or the canary is due."""
        return self.fingerprint == fingerprint and now_s - self.at_s < canary_s
