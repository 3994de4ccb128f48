"""What an index and an encoder must agree on, and how to prove it.

A tower's fingerprint covers everything that changes its vectors (weights, tokenizer, pooling,
normalization, prompt, maximum length, output dimension), not where it runs. Probe texts with their
vectors prove that the running encoder still makes the vectors that the index was built from.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from shoal import vectors
from shoal.v1 import encoder_pb2 as pb

_Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]


class TowerContract(BaseModel):
    """One tower; `probe_vectors` has a row of `dim` values for each of `probe_texts`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    dim: _Uint32
    max_tokens: _Uint32
    pooling: str
    normalized: bool
    prompt: str = ""
    probe_texts: tuple[str, ...] = ()
    probe_vectors: tuple[tuple[float, ...], ...] = ()


class EncoderContract(BaseModel):
    """Both towers; `min_cosine` is what probe vectors must keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    question: TowerContract
    passage: TowerContract
    min_cosine: float = 0.999


def lowest_cosine(tower: TowerContract, probe_vectors: npt.NDArray[np.float32]) -> float:
    """The lowest cosine between the recorded probe vectors and an encoder's, shape (n, dim)."""
    recorded = np.asarray(tower.probe_vectors, dtype=np.float32)
    lengths = np.linalg.norm(recorded, axis=1) * np.linalg.norm(probe_vectors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector's cosine is NaN
        return float(np.min(np.einsum("ij,ij->i", recorded, probe_vectors) / lengths))


def tower_fault(tower: TowerContract, probe_vectors: npt.NDArray[np.float32], least: float) -> str:
    """Why these vectors of the tower's probe texts, (n, dim), can't be its own; empty where fine.

    Args:
        tower: as recorded; one without probes finds no fault.
        probe_vectors: an encoder's, of `tower.probe_texts`.
        least: the cosine that each must keep.
    """
    if not tower.probe_texts:
        return ""
    expected = (len(tower.probe_texts), tower.dim)
    if probe_vectors.shape != expected:
        return f"its probe vectors are {probe_vectors.shape}, the index recorded {expected}"
    lowest = lowest_cosine(tower, probe_vectors)
    if lowest >= least:  # NaN is not
        return ""
    return (
        f"its probe vectors have a cosine of {lowest:.4f} to those that the index recorded, "
        f"below {least:g}, though its fingerprint {tower.fingerprint[:12]} is the index's"
    )


def disagreement(recorded: EncoderContract, running: EncoderContract) -> str:
    """How an encoder differs from the one that an index recorded; empty where it doesn't."""
    for side in ("question", "passage"):
        ours: TowerContract = getattr(recorded, side)
        theirs: TowerContract = getattr(running, side)
        if theirs.fingerprint != ours.fingerprint:
            return (
                f"the index was built by encoder {recorded.model}, whose {side} tower has "
                f"fingerprint {ours.fingerprint[:12]}; {running.model} has "
                f"{theirs.fingerprint[:12]}: other weights, tokenizer or settings, so its vectors "
                "mean something else; use the encoder that built it, or build the index anew"
            )
        # other texts prove nothing here: the canary has the recorded ones encoded
        if theirs.probe_texts == ours.probe_texts and ours.probe_texts:
            vectors_now = np.asarray(theirs.probe_vectors, dtype=np.float32)
            if fault := tower_fault(ours, vectors_now, recorded.min_cosine):
                return f"encoder {running.model}, {side} tower: {fault}"
    return ""


def to_proto(contract: EncoderContract, *, probes: bool) -> pb.EncoderContract:
    """The contract on the wire; without `probes` it is small enough for every GetShard."""
    return pb.EncoderContract(
        question=_tower_to_proto(contract.question, probes=probes),
        passage=_tower_to_proto(contract.passage, probes=probes),
        min_cosine=contract.min_cosine,
    )


def from_proto(message: pb.EncoderContract, model: str) -> EncoderContract:
    """The contract from the wire; `model` is its name as the operator gave it."""
    return EncoderContract(
        model=model,
        question=_tower_from_proto(message.question),
        passage=_tower_from_proto(message.passage),
        min_cosine=message.min_cosine,
    )


def _tower_to_proto(tower: TowerContract, *, probes: bool) -> pb.TowerContract:
    message = pb.TowerContract(**tower.model_dump(exclude={"probe_texts", "probe_vectors"}))
    if probes and tower.probe_texts:
        message.probe_texts.extend(tower.probe_texts)
        message.probe_vectors.CopyFrom(
            vectors.to_proto(np.asarray(tower.probe_vectors, dtype=np.float32))
        )
    return message


def _tower_from_proto(message: pb.TowerContract) -> TowerContract:
    probe_vectors: tuple[tuple[float, ...], ...] = ()
    if message.HasField("probe_vectors"):
        rows = vectors.from_proto(message.probe_vectors, "probe_vectors")
        probe_vectors = tuple(tuple(row) for row in rows.tolist())
    return TowerContract(
        fingerprint=message.fingerprint,
        dim=message.dim,
        max_tokens=message.max_tokens,
        pooling=message.pooling,
        normalized=message.normalized,
        prompt=message.prompt,
        probe_texts=tuple(message.probe_texts),
        probe_vectors=probe_vectors,
    )
