"""What the router lets in, so that overload is refused at once and not queued.

Each index and kind of query (text, vectors) has a gate of its own: what waits for a hung encoder
must not turn away vectors. One bound on the queries under way, whatever their kind, keeps the
memory; bulk takes half of it. A call that is alone, or the only one of bulk, may be larger.
"""

import math
import time
from collections.abc import Callable, Hashable
from types import TracebackType

from router.batching import search_cost
from router.query import SearchQuery
from shoal.admission import ROWS_PER_LIST, Gate, Limits
from shoal.errors import OverloadedError
from shoal.rpc import metrics

DEFAULT_WAIT_S = 0.5
BULK_WAIT_S = 5.0
_QUERY_COST = 64  # the least that `search_cost` takes a query for
_FREE_COST = 128 * _QUERY_COST
_BLIND_COST = 8_192 * _QUERY_COST
_TEXT_COST = 64
_RETRY_AFTER_S = 0.25
_REFUSED = metrics.refused_by("router")


class Admission:
    """Counts queries under way, and lets in what will not wait for long."""

    def __init__(
        self,
        max_queries: int,
        *,
        wait_s: float = DEFAULT_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait_s` is the longest predicted wait of interactive queries, on the `clock`."""
        self._max_queries = max_queries
        self._limits = Limits(
            blind_cost=_BLIND_COST,
            free_cost=_FREE_COST,
            wait_s=wait_s,
            bulk_wait_s=max(wait_s, BULK_WAIT_S),
        )
        self._clock = clock
        self._gates: dict[Hashable, Gate] = {}
        self._n_queries = 0
        self._n_bulk = 0
        self._refused_at_s = -math.inf

    @property
    def wait_s(self) -> float:
        """The longest wait of interactive queries, in seconds."""
        return self._limits.wait_s

    @property
    def n_queries(self) -> int:
        """Queries under way."""
        return self._n_queries

    @property
    def refused_at_s(self) -> float:
        """When a query was last refused, on the clock, here or by shards; -inf for never."""
        return self._refused_at_s

    def note_refusal(self) -> None:
        """A query was refused for want of room."""
        self._refused_at_s = self._clock()

    def admit(self, query: SearchQuery, deadline_s: float) -> "Room":
        """A context that holds room for a call's queries; its caller's deadline is on the clock.

        Entering it raises:
            DeadlineExceededError: the deadline has passed.
            OverloadedError: there is no room, or the queries would wait too long.
        """
        return Room(self, query, deadline_s)

    def enter(self, query: SearchQuery, cost: int, deadline_s: float) -> None:
        """Lets a call in that must `leave`; raises as `admit` says."""
        is_bulk = query.is_bulk
        _refuse_above(self._max_queries, self._n_queries, query.n_queries, "queries")
        if is_bulk:
            _refuse_above(self._max_queries // 2, self._n_bulk, query.n_queries, "bulk queries")
        self._gate(query).enter(cost, is_bulk=is_bulk, deadline_s=deadline_s)
        self._count(query.n_queries, is_bulk=is_bulk)

    def leave(self, query: SearchQuery, cost: int, *, is_done: bool) -> None:
        """A call that entered is answered (`is_done`), or has failed."""
        self._count(-query.n_queries, is_bulk=query.is_bulk)
        self._gate(query).leave(cost, is_bulk=query.is_bulk, is_done=is_done)

    def _gate(self, query: SearchQuery) -> Gate:
        kind = (query.index.name, bool(query.texts))  # names of indexes served: a closed set
        gate = self._gates.get(kind)
        if gate is None:
            what = "for the encoder and the shards" if query.texts else "for the shards"
            gate = self._gates[kind] = Gate(self._limits, what=what, clock=self._clock)
        return gate

    def _count(self, n_queries: int, *, is_bulk: bool) -> None:
        self._n_queries += n_queries
        if is_bulk:
            self._n_bulk += n_queries


class Room:
    """Holds room for one call; a class, for a generator's context costs each search 4 us more."""

    __slots__ = ("_admission", "_cost", "_deadline_s", "_query")

    def __init__(self, admission: Admission, query: SearchQuery, deadline_s: float) -> None:
        self._admission = admission
        self._query = query
        self._cost = cost_of(query)
        self._deadline_s = deadline_s

    def __enter__(self) -> None:
        try:
            self._admission.enter(self._query, self._cost, self._deadline_s)
        except OverloadedError:
            _REFUSED[self._query.is_bulk].inc(self._query.n_queries)
            self._admission.note_refusal()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.leave(self._query, self._cost, is_done=kind is None)
        if kind is not None and issubclass(kind, OverloadedError):  # by shards or the encoder
            self._admission.note_refusal()


def _refuse_above(most: int, n_held: int, n_more: int, what: str) -> None:
    if n_held and n_held + n_more > most:
        raise OverloadedError(
            f"{n_held} {what} are under way, of {most} at most", retry_after_s=_RETRY_AFTER_S
        )


def cost_of(query: SearchQuery) -> int:
    """What a call costs: queries x n_probe and what else a shard's work grows with. Pure.

    Brute force has no n_probe: it reads all rows, so it counts as many lists as they would fill.
    """
    n_probe = query.n_probe
    if query.exact:
        n_probe = max(query.index.n_live_by_shard, default=0) // ROWS_PER_LIST
    searching = search_cost(query.n_queries, n_probe=n_probe, k=query.depth, dim=query.index.dim)
    return searching + _TEXT_COST * len(query.texts)
