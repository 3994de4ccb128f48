"""StreamSearch: answers in any order, an item's failure is its own."""

import asyncio

import grpc
import numpy as np
import pytest
from fakes.cluster import eventually, hits_of, running, text_request, vector_request
from fakes.corpus import vector_of

from shoal.rpc.status import from_status
from shoal.v1 import search_pb2 as pb

VECTOR = np.array([[1, 2, -3, 4, 0, -1, 2, 3]], dtype=np.float32)


def item(item_id: str, request: pb.SearchRequest, **more: object) -> pb.StreamSearchRequest:
    return pb.StreamSearchRequest(item_id=item_id, request=request, **more)


async def ask(cluster, items) -> dict[str, pb.StreamSearchResponse]:
    answers = [answer async for answer in cluster.stub.StreamSearch(iter(items))]
    assert len(answers) == len(items)
    return {answer.item_id: answer for answer in answers}


async def test_many_items_are_all_answered(tmp_path):
    """1,000 items on one stream: each answered once, under its own id, and calls are shared."""
    # the fakes share the router's loop: its crowd must not make them look ill
    async with running(tmp_path, check_timeout_s=30) as cluster:
        items = [item(f"i{n}", text_request(f"q{n}", k=3)) for n in range(1_000)]
        answers = await ask(cluster, items)
        for n in range(1_000):
            assert not answers[f"i{n}"].HasField("status"), answers[f"i{n}"].status
            result = answers[f"i{n}"].response.results[0]
            assert hits_of(result) == cluster.corpus.search(vector_of(f"q{n}"), 3)
        assert cluster.n_searches < 1_000


async def test_answers_come_in_any_order(tmp_path):
    """A vector passes the text before it that waits for the encoder."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].gate.clear()
        call = cluster.stub.StreamSearch()
        await call.write(item("slow", text_request("a", k=1)))
        await call.write(item("fast", vector_request(VECTOR, k=1)))
        assert (await call.read()).item_id == "fast"
        cluster.encoders[0].gate.set()
        assert (await call.read()).item_id == "slow"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_an_items_failure_is_its_own(tmp_path):
    """Bad items carry their status with its details; the stream and the others go on."""
    async with running(tmp_path) as cluster:
        good = vector_request(VECTOR, k=2)
        newer = pb.StreamSearchRequest.FromString(
            item("newer", good).SerializeToString() + b"\xf8\x07\x01"
        )
        answers = await ask(
            cluster,
            [
                item("k", vector_request(VECTOR, k=0)),
                item("index", vector_request(VECTOR, index="nowhere")),
                item("time", good, timeout_ms=0),
                item("", good),
                item("x" * 200, good),
                newer,
                item("good", good),
            ],
        )
        errors = {
            name: from_status(answer.status)
            for name, answer in answers.items()
            if answer.HasField("status")
        }
        assert errors["k"].field == "k"
        assert errors["index"].code is grpc.StatusCode.NOT_FOUND
        assert errors["time"].field == "timeout_ms"
        assert errors[""].field == "item_id"
        assert errors["newer"].field == "127"
        assert "good" not in errors
        assert answers["good"].response.results[0].hits


async def test_an_item_has_its_own_deadline(tmp_path):
    """An item that waits too long ends in time, the next one is answered."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].gate.clear()
        call = cluster.stub.StreamSearch()
        await call.write(item("late", text_request("a"), timeout_ms=50))
        late = await call.read()
        assert late.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        cluster.encoders[0].gate.set()
        await call.write(item("next", text_request("a")))
        assert (await call.read()).HasField("response")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("hang", [True, False])
async def test_a_stream_that_is_cancelled_leaves_nothing(tmp_path, hang):
    """Items under way go with their stream, whether they wait or their answers do."""
    async with running(tmp_path) as cluster:
        scripts = [replica.script for replica in cluster.replicas]
        if hang:
            for script in scripts:
                script.gate.clear()
        call = cluster.stub.StreamSearch()
        for n in range(100):
            await call.write(item(f"i{n}", vector_request(VECTOR, k=5)))
        await eventually(lambda: all(script.n_searches for script in scripts))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        await eventually(lambda: cluster.n_under_way == 0)
        await eventually(lambda: all(script.n_under_way == 0 for script in scripts))


async def test_a_reader_who_does_not_read_is_not_served_ahead(tmp_path):
    """Answers that nobody takes hold back further items: memory stays bounded."""
    async with running(tmp_path) as cluster:
        request = vector_request(np.repeat(VECTOR, 20, axis=0), k=20)
        call = cluster.stub.StreamSearch()

        async def write() -> None:
            for n in range(2_000):
                await call.write(item(f"i{n}", request))

        writing = asyncio.ensure_future(write())
        script = cluster.replicas[0].script
        await eventually(lambda: script.n_queries >= 20 * 256, within_s=100.0)
        n_seen, n_same = script.n_queries, 0
        while n_same < 8:
            await asyncio.sleep(0.05)
            n_now = script.n_queries
            n_same = n_same + 1 if n_now == n_seen else 0
            n_seen = n_now
        assert n_seen < 20 * 1_000
        writing.cancel()
        call.cancel()
