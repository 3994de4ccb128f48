"""Traces of searches that came by HTTP, over scripted shards."""

import aiohttp
from fakes.cluster import running

from shoal.tracing.tracer import Tracer

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
UNSAMPLED = {"traceparent": PARENT["traceparent"][:-1] + "0"}


async def test_searches_by_http_are_traced_as_their_caller_says(tmp_path, port_over):
    """A stack that moves by changing a URL keeps its traces; each search of a list is one, and
    after it the next caller's is not taken for its part.
    """
    spans = []
    tracer = Tracer(spans.extend)
    async with (
        running(tmp_path) as cluster,
        port_over(cluster, tracer=tracer) as url,
        aiohttp.ClientSession() as client,
    ):

        async def ask(queries, headers):
            asked = {"queries": queries, "topk": 1}
            async with client.post(f"{url}/retrieve", json=asked, headers=headers) as answer:
                await answer.read()
                return answer.status, answer.headers["x-request-id"]

        status, request_id = await ask(["xyzzy"] * 1025, PARENT)
        assert status == 200
        roots = [span for span in spans if span.parent_is_remote]
        assert [root.name for root in roots] == ["shoal.v1.SearchService/Search"] * 2
        assert {root.attributes["shoal.request_id"] for root in roots} == {request_id}
        assert {f"{root.trace.trace_id:032x}" for root in roots} == {PARENT["traceparent"][3:35]}
        assert {span.name for span in spans} >= {"queue", "encode", "fan-out", "ask shard"}
        assert all(span.end_s is not None for span in spans)
        assert not any("xyzzy" in f"{span.name} {span.attributes}" for span in spans)
        n_spans = len(spans)
        for headers in (UNSAMPLED, {}):
            assert (await ask(["a"], headers))[0] == 200
        assert len(spans) == n_spans
        assert (await ask(["a"], {**PARENT, "X-Timeout-Ms": "0"}))[0] == 400
        assert len(spans) == n_spans, "refused before it was a search"
