"""Many questions through the client in batches: two calls in flight, and no more answers kept.

While one call is searched the next is encoded; what is not yet taken is not yet asked, so that
answers with texts don't pile up.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from shoal.answers import Answers
from shoal.client import Client
from shoal.requests import SearchOptions

_CALLS_IN_FLIGHT = 2
_HITS_WITH_TEXT = 20_000
"""Hits a call: a router refuses calls whose passages would not fit a message."""


def ask(
    client: Client,
    texts: Sequence[str],
    *,
    options: SearchOptions,
    batch: int,
    timeout_s: float,
) -> Iterator[Answers]:
    """The answers to `texts`, in their order, a batch at a time; as bulk work, unless told else.

    Raises:
        ShoalError: a call failed; those under way are waited for.
    """
    options = {"priority": "bulk", **options}
    if options.get("fields"):
        batch = max(1, min(batch, _HITS_WITH_TEXT // options.get("k", 10)))

    def search(start: int) -> Answers:
        return client.search_many(texts[start : start + batch], timeout_s=timeout_s, **options)

    under_way: deque[Future[Answers]] = deque()
    with ThreadPoolExecutor(_CALLS_IN_FLIGHT) as pool:
        try:
            for start in range(0, len(texts), batch):
                under_way.append(pool.submit(search, start))
                if len(under_way) == _CALLS_IN_FLIGHT:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
