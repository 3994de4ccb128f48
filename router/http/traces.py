"""Traces of searches that come by HTTP: W3C's own headers in the place of metadata.

Each search of a request is traced by itself, as each item of a stream is: a long list is several.
"""

from collections.abc import Mapping

import grpc

from router.slow_queries import Answer
from shoal.rpc.deadline import Deadline
from shoal.rpc.status import as_shoal_error
from shoal.tracing.context import PARENT_KEY, STATE_KEY
from shoal.tracing.spans import current_trace
from shoal.tracing.tracer import Tracer, begin_items, item_span
from shoal.v1 import search_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["SearchService"].full_name
_METHOD = f"{_SERVICE}/Search"


def begin_searches(tracer: Tracer, headers: Mapping[str, str], request_id: str) -> None:
    """Says of the request under way which trace its searches belong to."""
    given = tuple((key, headers[key]) for key in (PARENT_KEY, STATE_KEY) if key in headers)
    begin_items(tracer, _METHOD, given, request_id=request_id)


def traced(answer: Answer) -> Answer:
    """`answer`, each of whose calls is traced where it is sampled."""

    async def told(request: pb.SearchRequest, deadline: Deadline) -> pb.SearchResponse:
        with item_span() as ended:
            if (trace := current_trace()) is not None:
                trace.root.say(door="http")
            try:
                response = await answer(request, deadline)
            except Exception as failure:
                ended(as_shoal_error(failure).code.value[0])
                raise
            ended(grpc.StatusCode.OK.value[0])
        return response

    return told
