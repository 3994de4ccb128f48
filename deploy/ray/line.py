"""A connection to one address that is opened anew when it keeps failing.

Rule: the authority's certificate is read when a channel is opened and never again, so that only
another channel trusts one that was replaced since. Knows nothing of what is asked.
"""

import grpc

from shoal.credentials import Credentials
from shoal.rpc.channel import open_channel

MAX_FAILURES = 5
"""Calls in a row that were not answered, after which the next one opens another channel."""


class Line:
    """Nothing is opened before the first call."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.aio.Channel | None = None
        self._n_failures = 0

    async def channel(self, credentials: Credentials) -> grpc.aio.Channel:
        """The channel for the next call.

        Raises:
            ConfigError: a certificate, key or authority that can't be read just now.
        """
        if self._channel is not None and self._n_failures >= MAX_FAILURES:
            fresh = open_channel(self._address, credentials)
            await self.close()
            self._channel = fresh
        if self._channel is None:
            self._channel = open_channel(self._address, credentials)
        return self._channel

    def answered(self) -> None:
        """The last call was, be it by a refusal."""
        self._n_failures = 0

    def failed(self) -> None:
        """The last call was not answered."""
        self._n_failures += 1

    async def close(self) -> None:
        """Closes the channel, if there is one."""
        if self._channel is not None:
            await self._channel.close()
        self._channel = None
        self._n_failures = 0
