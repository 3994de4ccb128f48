"""A `POST /retrieve` server as a target: a real one, on a port of the kernel's choice."""

import asyncio

import grpc
import pytest
from aiohttp import web

from shoal import errors
from shoal.bench import LoadPlan, run_load
from shoal.bench.http_target import ids_of, open_target
from shoal.bench.load import start_workers
from shoal.credentials import Credentials
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2 as pb


class Retrieve:
    """Answers as such servers do; `status` other than 200 is all that it then says."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = asyncio.Event()
        """While clear, nobody is answered."""
        self.gate.set()
        self.asked = []

    async def post(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked)
        await self.gate.wait()
        if self.status != 200:
            return web.Response(status=self.status, text="no")
        hit = {"document": {"id": 7, "contents": "x"}, "score": 0.5}
        return web.json_response({"result": [[hit] * asked["topk"] for _ in asked["queries"]]})


@pytest.fixture
async def retrieve():
    server = Retrieve()
    app = web.Application()
    app.router.add_post("/retrieve", server.post)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()


async def run(**plan):
    return await asyncio.to_thread(
        run_load, LoadPlan(rate=50, duration_s=0.4, warmup_s=0.0, **plan)
    )


async def test_it_is_asked_in_its_own_words(retrieve):
    """queries, topk, return_scores; every query once before any twice."""
    report = await run(
        target=retrieve.url, texts=("a", "b", "c", "d"), batch=2, options={"k": 3}
    )  # fmt: skip
    assert (report.ok_ms.n, report.errors) == (20, {})
    assert report.queries_per_s == 2 * report.calls_per_s
    assert {"queries": ["a", "b"], "topk": 3, "return_scores": True} in retrieve.asked
    assert report.coverage_mean is None


@pytest.mark.parametrize(
    ("status", "code"), [(503, "UNAVAILABLE"), (429, "RESOURCE_EXHAUSTED"), (500, "INTERNAL")]
)
async def test_failures_have_the_names_of_the_others(retrieve, status, code):
    """So that a run against this beside one against a router can be compared."""
    retrieve.status = status
    assert (await run(target=retrieve.url)).errors == {code: 20}


async def test_a_time_out_is_its_own_series(retrieve):
    """Not answered in time is no error of the server's."""
    retrieve.gate.clear()
    report = await run(target=retrieve.url, timeout_s=0.2)
    assert (report.timeout_ms.n, report.error_ms.n) == (20, 0)


async def test_what_is_no_retrieve_server_is_told(retrieve):
    """A wrong path, a wrong shape: before the run, in one line."""
    async with start_workers(LoadPlan(target=f"{retrieve.url}/search", rate=1)) as workers:
        with pytest.raises(errors.InvalidArgumentError, match="NOT_FOUND"):
            await workers.refuse_bad_plan()
    async with start_workers(LoadPlan(target=retrieve.url, rate=1)) as workers:
        assert (await workers.refuse_bad_plan()).version == 0
        truth, why = await workers.find_truth(5, [])
        assert truth is None
        assert "no exact search" in why


async def test_vectors_and_tokens_in_plaintext_are_refused(tmp_path):
    """It takes texts; and a token would go over the network for all to read."""
    with pytest.raises(errors.InvalidArgumentError, match="takes texts"):
        await run(target="http://127.0.0.1:1", vectors_file=str(tmp_path / "q.npy"))
    with pytest.raises(errors.InvalidArgumentError, match="plaintext"):
        await run(target="http://10.1.2.3:80", credentials=Credentials(token="secret"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_token_may_stay_on_this_machine(host):
    """Nothing is on the way to read it, whatever the address is written like."""
    plan = LoadPlan(target=f"http://{host}:1", clients=1, credentials=Credentials(token="secret"))
    async with open_target(plan) as target:
        assert target is not None


@pytest.mark.parametrize(
    "body", [None, [], {"result": 3}, {"result": [[{"document": {}}]]}, {"result": []}, {"r": [[]]}]
)
def test_a_strange_answer_is_no_answer(body):
    """Whatever isn't a list of passages a query doesn't count as one."""
    assert ids_of(body, 1) is None


def test_both_shapes_are_read():
    """With scores a hit has its document inside, without it is one."""
    assert ids_of({"result": [[{"document": {"id": 1}, "score": 2.0}], []]}, 2) == (("1",), ())
    assert ids_of({"result": [[{"id": "a"}]]}, 1) == (("a",),)
    assert ids_of({"result": [[{"document": {"contents": "text"}}]]}, 1) == (("text",),)


async def test_a_router_elsewhere_tells_the_truth(retrieve):
    """`--truth`: a router of the same passages searches exactly; here it finds 7 and one more."""

    async def search(request, context):
        hits = [pb.Hit(passage=pb.Passage(id=name)) for name in ("7", "8")]
        results = [pb.QueryResult(hits=hits) for _ in request.queries]
        return pb.SearchResponse(index="i", version=4, coverage=1.0, results=results)

    method = grpc.unary_unary_rpc_method_handler(
        search, pb.SearchRequest.FromString, pb.SearchResponse.SerializeToString
    )
    server = grpc.aio.server(options=server_options())
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shoal.v1.SearchService", {"Search": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        report = await run(
            target=retrieve.url, recall_sample=5, truth_target=f"127.0.0.1:{port}"
        )  # fmt: skip
    finally:
        await server.stop(0)
    assert report.recall is not None
    assert (report.recall.mean, report.recall.n) == (0.5, 5)
