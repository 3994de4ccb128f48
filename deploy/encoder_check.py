"""Whether the encoder that serves is the one that built the index, probe vectors included."""

from router.encoder_client import EncoderClient
from shoal.contract import EncoderContract, disagreement
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import ConfigError

_TIMEOUT_S = 10.0


async def check_encoder(
    address: str, recorded: EncoderContract, credentials: Credentials = NO_CREDENTIALS
) -> None:
    """Asks the encoder at `address`, host:port, for its contract and compares.

    Raises:
        ConfigError: another fingerprint, or probe vectors that are not those recorded.
        ShoalError: it can't be asked.
    """
    client = EncoderClient(address, credentials)
    try:
        running = await client.describe(_TIMEOUT_S)
    finally:
        await client.close()
    if fault := disagreement(recorded, running):
        raise ConfigError(fault)
