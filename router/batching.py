"""Which waiting jobs go together. Pure: no sockets, no futures; time is an argument.

A batch holds jobs that agree in their key, interactive ones before bulk, the oldest first, up to a
bound on their summed cost. The oldest job of the class always rides, whatever it costs.

A cost is one number that stands for all that bounds a call: the work it makes, and what a message
and a shard take (1,024 queries, 16 MiB a request, 64 MiB an answer).
"""

from collections.abc import Collection, Hashable
from typing import Protocol, TypeVar

MAX_COST = 65_536
"""No call may cost more, or it could break a limit of the wire."""


def search_cost(n_queries: int, *, n_probe: int, k: int, dim: int) -> int:
    """What queries cost: n_queries x n_probe, or more where another bound is nearer.

    65,536 is at most 1,024 queries, 524,288 hits (some 20 bytes each) and 8 MiB of vectors.
    """
    return n_queries * max(64, n_probe, -(-k // 8), -(-dim // 32))


def text_cost(texts: Collection[str]) -> int:
    """What texts cost an encoder's call: 1 each, and more for long ones, up to 16 KiB a unit."""
    return len(texts) + sum(map(len, texts)) // 4_096


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


def next_batch(waiting: Collection[Job], max_cost: int) -> list[Job]:
    """The jobs to send next, the oldest first; `waiting` is in the order of arrival, not empty."""
    lead = next((job for job in waiting if not job.is_bulk), None) or next(iter(waiting))
    batch, cost = [lead], lead.cost
    for job in waiting:
        if job is lead or job.key != lead.key or job.is_bulk != lead.is_bulk:
            continue
        if cost + job.cost > max_cost:
            break
        batch.append(job)
        cost += job.cost
    return batch


def worth_a_second_call(n_items: int, n_riding: int) -> bool:
    """Whether items should leave beside a call of their key that is under way with `n_riding`.

    A call costs the same whatever it carries, so a small one is better joined to what comes next;
    with nothing of their key under way (0) they leave at once.
    """
    return n_items >= n_riding
