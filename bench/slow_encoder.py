"""`python -m bench.slow_encoder`: the encoder service, its model waiting in place of computing.

Queue, batches, admission, metrics and health are the real service's; only the model is replaced by
one that sleeps for 20 ms a text. So three encoders have three times the capacity of one on any
machine, and two cores are enough to watch them being scaled. A text decides its vector.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder_service import service as encoder_service
from encoder_service.batching import BatchCost
from encoder_service.config import EncoderConfig
from encoder_service.roles import Role
from shoal.contract import EncoderContract, TowerContract
from shoal.rpc.server import Service, run, serve
from shoal.v1 import encoder_pb2, encoder_pb2_grpc

DIM = 32
TEXT_S = 0.02
CAPACITY_PER_S = 1 / TEXT_S
_TOKENS = 8
_TEXTS_A_PASS = 4
_TOWER = TowerContract(
    fingerprint="5" * 64, dim=DIM, max_tokens=128, pooling="mean", normalized=True
)
CONTRACT = EncoderContract(model="slow", question=_TOWER, passage=_TOWER)

Vectors = npt.NDArray[np.float32]


def vector_of(text: str) -> Vectors:
    """A unit vector (DIM,) that the text alone decides."""
    seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class Offline:
    """What builds the index: the same vectors, at once."""

    dim = DIM
    contract = CONTRACT

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> Vectors:  # noqa: ARG002
        """Vectors (n, DIM)."""
        return np.stack([vector_of(text) for text in texts])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    text: str
    n_tokens: int = _TOKENS
    truncated: bool = False


class _SlowEncoder:
    """What `EncodeQueue` and the service ask of a `DualEncoder`."""

    name, device, backend, dtype = "slow", "cpu", "sleep", "float32"
    contract = CONTRACT
    n_streams = 1
    cost = stream_cost = BatchCost(max_tokens=_TOKENS * _TEXTS_A_PASS, pass_tokens=_TOKENS)

    def tower(self, role: Role) -> TowerContract:  # noqa: ARG002
        return _TOWER

    def shares_network(self) -> bool:
        return True

    def tokenize(self, texts: Sequence[str], role: Role, titles: Any = None) -> list[_Text]:  # noqa: ARG002
        return [_Text(text=text) for text in texts]

    def forward(self, tokenized: Sequence[_Text], role: Role, *, one_core: bool = False) -> Vectors:  # noqa: ARG002
        time.sleep(TEXT_S * len(tokenized))
        return np.stack([vector_of(text.text) for text in tokenized])


async def main(config: EncoderConfig) -> None:
    """Serves until told to stop."""
    encoder_service._load = lambda config: _SlowEncoder()  # type: ignore[assignment, return-value] # noqa: ARG005, SLF001
    encoder = encoder_service.EncoderService(config)
    service = Service(
        full_name=encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
        add=lambda server: encoder_pb2_grpc.add_EncoderServiceServicer_to_server(encoder, server),
    )
    await serve(config, [service], start=encoder.load, stop=encoder.close)


if __name__ == "__main__":
    run("encoder_service", EncoderConfig, main)
