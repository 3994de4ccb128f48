"""A bound on what is under way in the router, so that overload is refused and not queued."""

from collections.abc import Iterator
from contextlib import contextmanager

from shoal.errors import OverloadedError
from shoal.rpc import metrics

_RETRY_AFTER_S = 0.1
_DEPTH = metrics.QUEUE_DEPTH.labels("router")


class Admission:
    """Counts queries under way."""

    def __init__(self, max_queries: int) -> None:
        self._max_queries = max_queries
        self._n_queries = 0

    @property
    def n_queries(self) -> int:
        """Queries under way."""
        return self._n_queries

    @contextmanager
    def admit(self, n_queries: int) -> Iterator[None]:
        """Holds room for a call's queries.

        Raises:
            OverloadedError: there is none.
        """
        if self._n_queries + n_queries > self._max_queries and self._n_queries:
            raise OverloadedError(
                f"{self._n_queries} queries are under way, of {self._max_queries} at most",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._n_queries += n_queries
        _DEPTH.set(self._n_queries)
        try:
            yield
        finally:
            self._n_queries -= n_queries
            _DEPTH.set(self._n_queries)
