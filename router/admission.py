"""What the router lets in, so that overload is refused at once and not queued.

Each index and kind of query (text, vectors) has a gate of its own: what waits for a hung encoder
must not turn away vectors. One bound on the queries under way, whatever their kind, keeps the
memory; bulk takes half of it. A call that is alone, or the only one of bulk, may be larger.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

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
_DEPTH = metrics.QUEUE_DEPTH.labels("router")


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

    @property
    def wait_s(self) -> float:
        """The longest wait of interactive queries, in seconds."""
        return self._limits.wait_s

    @property
    def n_queries(self) -> int:
        """Queries under way."""
        return self._n_queries

    @contextmanager
    def admit(self, query: SearchQuery, deadline_s: float) -> Iterator[None]:
        """Holds room for a call's queries; `deadline_s` is its caller's, on the clock.

        Raises:
            DeadlineExceededError: the deadline has passed.
            OverloadedError: there is no room, or the queries would wait too long.
        """
        n_queries, is_bulk = query.n_queries, query.is_bulk
        self._refuse_too_many(n_queries, is_bulk=is_bulk)
        with self._gate(query).admit(cost_of(query), is_bulk=is_bulk, deadline_s=deadline_s):
            self._count(n_queries, is_bulk=is_bulk)
            try:
                yield
            finally:
                self._count(-n_queries, is_bulk=is_bulk)

    def _refuse_too_many(self, n_queries: int, *, is_bulk: bool) -> None:
        held = [(self._n_queries, self._max_queries, "queries")]
        if is_bulk:
            held.append((self._n_bulk, self._max_queries // 2, "bulk queries"))
        for n_held, most, what in held:
            if n_held and n_held + n_queries > most:
                raise OverloadedError(
                    f"{n_held} {what} are under way, of {most} at most",
                    retry_after_s=_RETRY_AFTER_S,
                )

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
        _DEPTH.set(self._n_queries)


def cost_of(query: SearchQuery) -> int:
    """What a call costs: queries x n_probe and what else a shard's work grows with. Pure.

    Brute force has no n_probe: it reads all rows, so it counts as many lists as they would fill.
    """
    n_probe = query.n_probe
    if query.exact:
        n_probe = max(query.index.n_live_by_shard, default=0) // ROWS_PER_LIST
    searching = search_cost(query.n_queries, n_probe=n_probe, k=query.depth, dim=query.index.dim)
    return searching + _TEXT_COST * len(query.texts)
