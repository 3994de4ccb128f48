"""The slowest searches of the last minutes, for the console. In memory alone, and bounded.

The slowest 20 of each minute are kept, for 15 minutes: there is always something to see, and a
storm of slow searches can't push out what was slow before it. Pure but for `watching`, which reads
the clock; a router without an HTTP port has none of this.
"""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import grpc

from shoal.errors import ShoalError
from shoal.rpc.deadline import Deadline
from shoal.rpc.request_id import current_request_id
from shoal.v1 import search_pb2 as pb

MAX_QUESTION = 200
"""Characters of a question that are kept."""
STAGES = ("queue", "encode", "search", "merge", "fetch")

Answer = Callable[[pb.SearchRequest, Deadline], Awaitable[pb.SearchResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowQuery:
    """One search. `at_s` is Unix time, `stages_ms` are those of STAGES, empty where it failed.

    `code` is "OK" or the error's; `question` is the first text, "" where it was a vector.
    """

    at_s: float
    took_ms: float
    code: str
    index: str
    question: str
    n_queries: int
    k: int
    is_exact: bool
    request_id: str
    coverage: float | None = None
    n_probe: int | None = None
    stages_ms: tuple[float, ...] = ()


_Entry = tuple[float, int, SlowQuery]


@dataclass(slots=True)
class _Slot:
    began_s: float
    heap: list[_Entry] = field(default_factory=list)


class SlowQueries:
    """Belongs to one event loop. Times given to it are of one monotonic clock."""

    def __init__(self, *, n_kept: int = 20, slot_s: float = 60.0, n_slots: int = 15) -> None:
        """Keeps `n_kept` searches of each of the last `n_slots` times `slot_s` seconds."""
        self._n_kept = n_kept
        self._slot_s = slot_s
        self._n_slots = n_slots
        self._slots: deque[_Slot] = deque(maxlen=n_slots)
        self._numbers = itertools.count()  # so that equal times never compare searches

    def note(self, took_s: float, now_s: float, tell: Callable[[], SlowQuery]) -> None:
        """A search that ended now; `tell` is called where it is among the slowest."""
        if not self._slots or now_s - self._slots[-1].began_s >= self._slot_s:
            self._slots.append(_Slot(began_s=now_s))
        heap = self._slots[-1].heap
        if len(heap) < self._n_kept:
            heapq.heappush(heap, (took_s, next(self._numbers), tell()))
        elif took_s > heap[0][0]:
            heapq.heapreplace(heap, (took_s, next(self._numbers), tell()))

    def recent(self, now_s: float) -> tuple[SlowQuery, ...]:
        """What is kept and not too old, the slowest first."""
        entries = sorted(self._entries(now_s), reverse=True)
        return tuple(query for _, _, query in entries)

    def _entries(self, now_s: float) -> Iterator[_Entry]:
        for slot in self._slots:
            if now_s - slot.began_s < self._slot_s * self._n_slots:
                yield from slot.heap

    def watching(self, answer: Answer) -> Answer:
        """`answer`, each of whose calls is noted, those that fail too."""

        async def watched(request: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
            begun_s = time.monotonic()
            response: pb.SearchResponse | None = None
            code = grpc.StatusCode.INTERNAL.name
            try:
                response = await answer(request, deadline)
                code = grpc.StatusCode.OK.name
            except ShoalError as failure:
                code = failure.code.name
                raise
            finally:
                now_s = time.monotonic()
                took_s, said = now_s - begun_s, code
                self.note(took_s, now_s, lambda: _told(request, response, took_s, said))
            return response

        return watched


def _told(
    request: pb.SearchRequest, response: pb.SearchResponse | None, took_s: float, code: str
) -> SlowQuery:
    texts = (query.text for query in request.queries if query.WhichOneof("input") == "text")
    return SlowQuery(
        at_s=time.time() - took_s,
        took_ms=took_s * 1e3,
        code=code,
        index=response.index if response else request.index,
        question=next(texts, "")[:MAX_QUESTION],
        n_queries=len(request.queries),
        k=request.k,
        is_exact=request.exact,
        request_id=current_request_id(),
        coverage=response.coverage if response else None,
        n_probe=response.n_probe if response else None,
        stages_ms=tuple(getattr(response.timings, f"{name}_ms") for name in STAGES)
        if response
        else (),
    )
