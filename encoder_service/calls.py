"""What the encoder's queue moves: a caller's texts, and one text among those that wait."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from encoder_service.admission import Permit
from encoder_service.batching import Priority
from encoder_service.roles import Role
from shoal.tracing.spans import Trace

if TYPE_CHECKING:  # torch comes with it, seconds after the process has its address
    from encoder_service.tokenizing import TokenizedText

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A call's vectors (n, dim), truncation flags, and milliseconds by stage (slowest batch)."""

    vectors: Vectors
    truncated: list[bool]
    queue_ms: float = 0.0
    tokenize_ms: float = 0.0
    forward_ms: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A caller's texts on their way; changed on the event loop alone."""

    texts: Sequence[str]
    titles: Sequence[str] | None
    role: Role
    priority: Priority
    lane: int
    permit: Permit
    deadline_s: float
    answer: "asyncio.Future[None]"
    vectors: Vectors
    truncated: list[bool]
    n_left: int
    begun_s: float
    n_sent: int = 0
    cancelled: bool = False
    queue_s: float = 0.0
    tokenize_s: float = 0.0
    forward_s: float = 0.0
    trace: Trace | None = None


@dataclass(slots=True, eq=False)
class Item:
    """One tokenized text in the queue; what `batching.Waiting` asks for is its call's."""

    call: Call
    row: int
    tokenized: "TokenizedText"
    n_tokens: int
    priority: Priority = field(init=False)
    lane: int = field(init=False)
    deadline_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.priority = self.call.priority
        self.lane = self.call.lane
        self.deadline_s = self.call.deadline_s

    @property
    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return self.call.cancelled
