"""What load is aimed at: the interface that any system can be put behind.

Rule: a target says how a call ended; it never measures. Time is the loops' business, so that no
adapter can leave any of it out. Knows nothing of plans; `adapters` says who implements it.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

OK = "OK"
TIMEOUT = "DEADLINE_EXCEEDED"

Ids: TypeAlias = tuple[tuple[str, ...], ...]
"""The passages found, best first, a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What answered: "" and 0 where it doesn't say. A reload moves the version."""

    index: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a call ended.

    Attributes:
        code: "OK", or the name of a gRPC status code; another protocol's failures take the nearest.
        degraded: an answer from a part of the corpus.
        coverage: the share of the corpus that was searched; None where the target doesn't say.
        stages_ms: the target's own times, in the order of `Target.stages`; empty where untold.
        served: what answered.
        ids: what was found; None where it wasn't asked for.
    """

    code: str
    degraded: bool = False
    coverage: float | None = None
    stages_ms: tuple[float, ...] = ()
    served: Served = Served()
    ids: Ids | None = None


class Target(Protocol):
    """Something that answers queries. Every call is one of `n_requests` prepared requests."""

    n_requests: int
    """Requests that were made ready: all the plan's queries, a batch each."""
    stages: tuple[str, ...]
    """The stages whose times replies tell, in the order in which they follow each other."""

    async def send(self, request: int, *, with_ids: bool) -> Reply:
        """Makes a call; a failure is a reply too. `with_ids` asks for what was found."""

    async def exact(self, request: int) -> Reply:
        """The true answer, by exact search.

        Raises:
            UnsupportedError: this target can't tell.
        """

    async def refuse_bad_plan(self) -> Served:
        """Makes the first call: what is refused for good would be refused every time.

        Raises:
            ShoalError: the refusal; failures that may pass are the run's to count.
        """


def adapter_of(target: str) -> str:
    """Which adapter a target's form asks for: "http" for a URL, "grpc" for anything else."""
    return "http" if target.startswith(("http://", "https://")) else "grpc"
