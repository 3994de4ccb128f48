"""How much may wait: a permit before any work, and past the limit a time to return.

Two bounds: on the texts that wait, which keeps the memory, and on the time that their tokens will
take at the rate at which tokens went lately. Knows no threads and no models.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from encoder_service.batching import Priority
from shoal.admission import Gate, Limits, retry_after_s
from shoal.errors import OverloadedError

DEFAULT_WAIT_S = 1.0
BULK_WAIT_S = 60.0
"""Longer than any sensible deadline: nobody waits for bulk, so only its own deadline counts."""

_BULK_SHARE = 0.75  # bulk work leaves room for those who wait for an answer
_FREE_TOKENS = 4_096  # some 200 questions, half a second of two busy cores
_QUESTION_TOKENS = 32
_CHARS_PER_TOKEN = 4
_MOST_TOKENS = 512  # what models read of a text
_TEXT_TOKENS = 2  # the marks around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What a call may have under way."""

    n_texts: int
    n_tokens: int
    priority: Priority

    @property
    def is_bulk(self) -> bool:
        """Whether nobody waits for it."""
        return self.priority is Priority.BULK


def guessed_tokens(texts: Sequence[str]) -> int:
    """About how many tokens a model will read: known before the texts are tokenized. Pure."""
    return sum(
        _TEXT_TOKENS + min(_MOST_TOKENS, -(-len(text) // _CHARS_PER_TOKEN)) for text in texts
    )


class Permits:
    """Counts the texts that were admitted and not yet answered, and the rate at which they go."""

    def __init__(
        self,
        max_texts: int,
        *,
        wait_s: float = DEFAULT_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait_s` is the longest predicted wait of interactive texts, on the `clock`."""
        self._max_texts = max_texts
        limits = Limits(
            blind_cost=max_texts * _QUESTION_TOKENS,
            free_cost=_FREE_TOKENS,
            wait_s=wait_s,
            bulk_wait_s=max(wait_s, BULK_WAIT_S),
        )
        self._gate = Gate(limits, what="for the encoder", clock=clock)
        self.n_texts = 0

    def take(self, texts: Sequence[str], priority: Priority, deadline_s: float) -> Permit:
        """Admits a call, until `give_back`; `deadline_s` is its caller's, on the clock.

        Raises:
            DeadlineExceededError: the deadline has passed.
            OverloadedError: with the time after which what waits now should be done.
        """
        permit = Permit(n_texts=len(texts), n_tokens=guessed_tokens(texts), priority=priority)
        room = int(self._max_texts * (_BULK_SHARE if permit.is_bulk else 1))
        if self.n_texts + permit.n_texts > room:
            load = self._gate.load
            wait_s = load.bulk_wait_s if permit.is_bulk else load.wait_s
            raise OverloadedError(
                f"{self.n_texts} texts wait for the encoder, and {permit.n_texts} more are above "
                f"its limit of {room}; come back later or start another encoder",
                retry_after_s=retry_after_s(wait_s),
            )
        self._gate.enter(permit.n_tokens, is_bulk=permit.is_bulk, deadline_s=deadline_s)
        self.n_texts += permit.n_texts
        return permit

    def give_back(self, permit: Permit) -> None:
        """A call is answered, or its caller left."""
        self.n_texts -= permit.n_texts
        self._gate.leave(permit.n_tokens, is_bulk=permit.is_bulk, is_done=False)

    def encoded(self, permit: Permit) -> None:
        """One text of a call went through the model: the rate that waits are reckoned from.

        Whether its caller still waits makes no difference: it took its time all the same.
        """
        self._gate.credit(permit.n_tokens / permit.n_texts, is_bulk=permit.is_bulk)
