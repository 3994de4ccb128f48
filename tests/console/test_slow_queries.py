"""The slowest searches of the last minutes: which are kept, for how long, and what is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.slow_queries import MAX_QUESTION, SlowQueries, SlowQuery
from shoal.errors import OverloadedError
from shoal.rpc.deadline import Deadline
from shoal.v1 import search_pb2 as pb


def a_query(took_s: float) -> SlowQuery:
    return SlowQuery(
        at_s=0.0, took_ms=took_s * 1e3, code="OK", index="books", question="", n_queries=1, k=10,
        is_exact=False, request_id="",
    )  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=60))
def test_each_slot_keeps_its_slowest(searches):
    """A storm of slow searches can't push out what was slow in another slot."""
    slow = SlowQueries(n_kept=3, slot_s=10.0, n_slots=4)
    now_s, slots, began_s = 0.0, [], -100.0
    for took_s, pause_s in searches:
        now_s += pause_s
        if now_s - began_s >= 10.0:
            began_s = now_s
            slots.append((began_s, []))
        slots[-1][1].append(took_s)
        slow.note(took_s, now_s, lambda took_s=took_s: a_query(took_s))
    kept = [
        took_s
        for began_s, all_took_s in slots[-4:]
        if now_s - began_s < 40.0
        for took_s in sorted(all_took_s, reverse=True)[:3]
    ]
    told = [query.took_ms / 1e3 for query in slow.recent(now_s)]
    assert told == pytest.approx(sorted(kept, reverse=True))


def test_what_is_old_is_gone_and_what_is_fast_is_never_told():
    """Memory is bounded, and a search that isn't kept costs no description."""
    slow = SlowQueries(n_kept=1, slot_s=10.0, n_slots=2)
    slow.note(2.0, 0.0, lambda: a_query(2.0))
    slow.note(1.0, 1.0, lambda: pytest.fail("it is not among the slowest"))
    assert len(slow.recent(19.0)) == 1
    assert slow.recent(20.0) == ()


async def test_a_search_that_fails_is_noted_with_its_code():
    """The searches that matter most are those that nobody got an answer to."""
    slow = SlowQueries()

    async def full(request, deadline):
        raise OverloadedError("full", retry_after_s=1.0)

    async def found(request, deadline):
        timings = pb.StageTimings(search_ms=3.0)
        return pb.SearchResponse(index="books", coverage=0.5, n_probe=7, timings=timings)

    request = pb.SearchRequest(queries=[pb.Query(text="x" * 1000)], k=3)
    with pytest.raises(OverloadedError):
        await slow.watching(full)(request, Deadline.after(1.0))
    await slow.watching(found)(request, Deadline.after(1.0))
    told = {query.code: query for query in slow.recent(Deadline.after(0.0).at_s)}
    assert told["RESOURCE_EXHAUSTED"].question == "x" * MAX_QUESTION
    assert told["RESOURCE_EXHAUSTED"].coverage is None
    ok = told["OK"]
    assert (ok.index, ok.coverage, ok.n_probe, ok.k) == ("books", 0.5, 7, 3)
    assert ok.stages_ms == (0.0, 0.0, 3.0, 0.0, 0.0)
