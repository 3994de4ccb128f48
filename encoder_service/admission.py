"""How much may wait: a permit before any work, and past the limit a time to return.

Plain arithmetic: no clocks, no threads.
"""

from encoder_service.batching import Priority
from shoal.errors import OverloadedError

_BULK_SHARE = 0.75  # bulk work leaves room for those who wait for an answer
_SMOOTHING = 0.2
_LEAST_RETRY_S, _MOST_RETRY_S = 0.05, 10.0


class Permits:
    """Counts the texts that were admitted and not yet answered, and the rate at which they go."""

    def __init__(self, max_texts: int) -> None:
        self._max_texts = max_texts
        self._texts_per_s = 0.0
        self.n_texts = 0

    def take(self, n_texts: int, priority: Priority) -> None:
        """Admits a call.

        Raises:
            OverloadedError: with the time after which what waits now should be done.
        """
        room = int(self._max_texts * (_BULK_SHARE if priority is Priority.BULK else 1))
        if self.n_texts + n_texts > room:
            wait_s = self.n_texts / self._texts_per_s if self._texts_per_s else 1.0
            raise OverloadedError(
                f"{self.n_texts} texts wait for the encoder, and {n_texts} more are above its "
                f"limit of {room}; come back later or start another encoder",
                retry_after_s=min(_MOST_RETRY_S, max(_LEAST_RETRY_S, wait_s)),
            )
        self.n_texts += n_texts

    def give_back(self, n_texts: int) -> None:
        """A call is answered, or its caller left."""
        self.n_texts -= n_texts

    def observe(self, n_texts: int, seconds: float) -> None:
        """A batch took so long: the rate that retry times are reckoned from."""
        rate = n_texts / max(seconds, 1e-6)
        change = rate - self._texts_per_s
        self._texts_per_s += _SMOOTHING * change if self._texts_per_s else change
