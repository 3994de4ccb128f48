"""What a traced search leaves of itself in the router: its settings, and its stages.

The stages are those that the answer's timings tell, put one after the other; the calls within them
were opened and closed as they went (`traces`).
"""

from router.query import SearchQuery
from router.search import Found
from router.traces import ENCODE, FAN_OUT, FETCH
from shoal.tracing.spans import Trace


def tell_query(trace: Trace, query: SearchQuery, begun_s: float, queue_s: float) -> None:
    """What is known of a search before it begins: its size and its settings, never its words."""
    trace.timed_stage("queue", begun_s, begun_s + queue_s)
    trace.root.say(
        index=query.index.name,
        version=query.index.version,
        n_queries=query.n_queries,
        k=query.k,
        exact=query.exact,
        candidates=query.candidates,
        is_bulk=query.is_bulk,
    )


def tell_found(trace: Trace, query: SearchQuery, found: Found, search_s: float) -> None:
    """How a search went that began at `search_s`: its stages, as its timings have them."""
    timings = found.timings
    encoded_s = search_s + timings.encode_s
    fanned_out_s = encoded_s + timings.search_s
    merged_s = fanned_out_s + timings.merge_s
    if query.texts:
        trace.timed_stage(ENCODE, search_s, encoded_s)
    trace.timed_stage(FAN_OUT, encoded_s, fanned_out_s)
    trace.timed_stage("merge", fanned_out_s, merged_s)
    if trace.has_stage(FETCH):  # mostly the passages come along with the hits
        trace.timed_stage(FETCH, merged_s, merged_s + timings.fetch_s)
    trace.root.say(coverage=found.coverage, n_probe=found.n_probe)
