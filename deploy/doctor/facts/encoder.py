"""The running encoders against the contract that the served index recorded, probe vectors included.

Rule: what an encoder says of itself isn't enough: it encodes the recorded probe texts here and now.
"""

import asyncio
from dataclasses import dataclass

from deploy.encoder_check import check_encoder
from router.encoder_client import EncoderClient
from shoal.contract import EncoderContract, lowest_cosine, tower_fault
from shoal.credentials import Credentials
from shoal.errors import ConfigError, ShoalError
from shoal.v1.priority_pb2 import PRIORITY_INTERACTIVE

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFacts:
    """One encoder. `fault` says how it breaks the contract, `why` why it could not be asked; with
    neither, `lowest_cosine` is the least of its probe vectors to those recorded, 1 without probes.
    """

    address: str
    model: str
    fault: str = ""
    why: str = ""
    n_probes: int = 0
    lowest_cosine: float = 1.0


def read_encoders(
    addresses: tuple[str, ...], recorded: EncoderContract, shown: Credentials
) -> tuple[EncoderFacts, ...]:
    """Each encoder at `addresses`, host:port, asked in turn; 20 s each where one hangs."""
    return tuple(asyncio.run(_ask(address, recorded, shown)) for address in addresses)


async def _ask(address: str, recorded: EncoderContract, shown: Credentials) -> EncoderFacts:
    try:
        await check_encoder(address, recorded, shown)
    except ConfigError as failure:
        return EncoderFacts(address=address, model=recorded.model, fault=failure.message)
    except ShoalError as failure:
        return EncoderFacts(address=address, model=recorded.model, why=failure.message)
    tower = recorded.question
    if not tower.probe_texts:
        return EncoderFacts(address=address, model=recorded.model)
    client = EncoderClient(address, shown)
    try:
        (encoded,) = await client.encode(
            tower.fingerprint, PRIORITY_INTERACTIVE, [tower.probe_texts], _TIMEOUT_S
        )
    except ShoalError as failure:
        return EncoderFacts(address=address, model=recorded.model, why=failure.message)
    finally:
        await client.close()
    vectors = encoded.query_vectors
    fault = tower_fault(tower, vectors, recorded.min_cosine)
    return EncoderFacts(
        address=address,
        model=recorded.model,
        fault=fault,
        n_probes=len(tower.probe_texts),
        lowest_cosine=1.0 if fault else lowest_cosine(tower, vectors),
    )
