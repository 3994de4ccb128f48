"""Which waiting jobs go together. Pure: no sockets, no futures; time is an argument.

A batch holds jobs that agree in their key, interactive ones before bulk, the oldest first, up to a
bound on their summed cost. The oldest job of the class always rides, whatever it costs.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """What the choice looks at."""

    @property
    def key(self) -> Hashable:
        """What must agree within a batch."""
        ...

    @property
    def cost(self) -> int:
        """How much of the batch's bound it takes."""
        ...

    @property
    def is_bulk(self) -> bool:
        """Whether nobody waits for it."""
        ...


Job = TypeVar("Job", bound=Waiting)


def next_batch(waiting: Sequence[Job], max_cost: int) -> list[Job]:
    """The jobs to send next, in the order of arrival; `waiting` is in that order and not empty."""
    lead = next((job for job in waiting if not job.is_bulk), waiting[0])
    batch, cost = [lead], lead.cost
    for job in waiting:
        if job is lead or job.key != lead.key or job.is_bulk != lead.is_bulk:
            continue
        if cost + job.cost > max_cost:
            break
        batch.append(job)
        cost += job.cost
    return batch
