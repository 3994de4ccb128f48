"""What one shard lets in before its search thread: a bound on the predicted wait.

Pure but for the gate's clock. Knows nothing of threads, faiss or gRPC.
"""

import time
from collections.abc import Callable

from shard_server.limits import SearchParameters
from shoal.admission import ROWS_PER_LIST, Gate, Limits

CALL_COST = 256
"""What a call costs beside its queries: some 0.5 ms, as much as 256 lists."""

_LARGEST = CALL_COST + 65_536  # what a router sends in one call, brute force aside
_FREE_COST = 2 * _LARGEST  # it has two calls under way
_BULK_WAIT_S = 5.0


def search_gate(
    *, wait_s: float, max_queued: int, clock: Callable[[], float] = time.monotonic
) -> Gate:
    """The gate of a shard where interactive calls wait `wait_s` seconds at most, on the `clock`."""
    limits = Limits(
        blind_cost=(max_queued + 1) * _FREE_COST,
        free_cost=_FREE_COST,
        wait_s=wait_s,
        bulk_wait_s=max(wait_s, _BULK_WAIT_S),
    )
    return Gate(limits, what="for this shard", clock=clock)


def search_cost(parameters: SearchParameters, *, n_queries: int, n_live: int) -> int:
    """What a call costs: queries x lists read, and something for the call itself."""
    lists = n_live // ROWS_PER_LIST if parameters.exact else parameters.n_probe
    return CALL_COST + n_queries * max(1, lists)
