"""What a traced search leaves in a shard: waiting, the scan with its rescoring, the passages.

Scan and rescoring are one stage, since faiss does both in one call.
"""

from typing import Any

from shard_server.limits import SearchParameters
from shard_server.search_thread import Done
from shoal.tracing.spans import Trace


def tell_search(
    trace: Trace,
    done: Done[Any],
    parameters: SearchParameters,
    *,
    n_queries: int,
    scanned_s: float,
    passages_came: bool,
) -> None:
    """The times of a piece of work of the search thread.

    `scanned_s` is when the hits were there, on `time.monotonic()`; `passages_came`: the thread read
    their passages as well.
    """
    root = trace.root
    root.add("wait", done.begun_s - done.queue_ms / 1e3, done.begun_s)
    scan = root.add("scan", done.begun_s, scanned_s)
    scan.say(
        n_queries=n_queries,
        k=parameters.k,
        n_probe=parameters.n_probe,
        candidates=parameters.candidates,
        exact=parameters.exact,
    )
    if passages_came:
        root.add("passages", scanned_s, done.begun_s + done.work_ms / 1e3)
