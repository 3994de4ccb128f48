"""Which waiting jobs go together. Pure: no sockets, no futures; time is an argument.

A batch holds jobs that agree in their key, interactive ones before bulk, the oldest first, up to a
bound on their summed cost. The oldest job of the class always rides, whatever it costs.

A cost is one number that stands for all that bounds a call: the work it makes, and what a message
and a shard take (1,024 queries, 16 MiB a request, 64 MiB an answer).
"""

import math
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
        if job is lead or not alike(job.key, lead.key) or job.is_bulk != lead.is_bulk:
            continue
        if cost + job.cost > max_cost:
            break
        batch.append(job)
        cost += job.cost
    return batch


def alike(key: Hashable, other: Hashable) -> bool:
    """Whether two keys are equal: most are one object, which is known without a look inside."""
    return key is other or key == other


FEW = 8
"""Queries under way up to which nobody is held for company."""
MAX_HOLD_S = 0.03
_HOLD_S_PER_QUERY = 0.0005


def hold_s(
    n_items: int, *, n_riding: int, n_active: int, waited_s: float, is_full: bool = False
) -> float:
    """How long a batch had better wait for company; 0 for leaving now, infinity for the next reply.

    A call costs the same whatever it carries. So a second call beside one of its key leaves only
    with as many as ride there; and while many queries are under way, a batch is held until half of
    them ride in it, for 0.5 ms a query at most: they wait for each other anyway, and at 64 clients
    the calls saved are worth 1.6 times the throughput (docs/decisions.md). A lone query is never
    held, nor a batch that can't grow.

    Args:
        n_items: queries that would leave.
        n_riding: queries of their key that are under way already.
        n_active: queries under way in this process, wherever they are.
        waited_s: how long the oldest of the batch has waited.
        is_full: another job like its first would be above the bound.
    """
    if is_full:
        return 0.0
    if n_items < n_riding:
        return math.inf
    if n_active <= FEW or 2 * n_items >= n_active:
        return 0.0
    return max(0.0, min(MAX_HOLD_S, n_active * _HOLD_S_PER_QUERY) - waited_s)
