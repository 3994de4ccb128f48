"""What the router lets in: refused in milliseconds, counted exactly, by kind and by class."""

import asyncio
import dataclasses

import grpc
import numpy as np
import pytest
from fakes.cluster import eventually, running, text_request, vector_request
from prometheus_client import REGISTRY

from router.admission import Admission, cost_of
from router.effort import CostModel
from router.query import SearchQuery, resolve
from router.topology import IndexVersion
from shoal import vectors
from shoal.errors import DeadlineExceededError, OverloadedError
from shoal.rpc.metrics import PRIORITIES
from shoal.rpc.status import error_of
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb

INDEX = IndexVersion(
    name="books", version=1, dim=8, recipe="IVF64,PQ4", score_kind=pb.SCORE_KIND_INNER_PRODUCT,
    n_lists=64, default_n_probe=16, default_oversample=10.0, n_live_by_shard=(50_000, 40_000),
    question_fingerprint="f", encoder_model="m", operating_points=(), created_at_ns=0,
)  # fmt: skip
VECTOR = np.ones((1, 8), np.float32)
LATER_S = 1e12


def query(n: int = 1, **parameters: object) -> SearchQuery:
    row = pb.Query(vector=vectors.to_proto(VECTOR))
    return resolve(pb.SearchRequest(queries=[row] * n, **parameters), INDEX)


def text(n: int = 1) -> SearchQuery:
    return resolve(pb.SearchRequest(queries=[pb.Query(text="a")] * n), INDEX)


def refused() -> dict[str, float]:
    """By class, the queries that this process has refused as a router."""
    return {
        priority: REGISTRY.get_sample_value(
            "shoal_refused_total", {"component": "router", "priority": priority}
        )
        for priority in PRIORITIES
    }


def test_admission_counts_queries_and_gives_room_back():
    """Past the bound it refuses with a time to come back; a lone call of any size is admitted."""
    admission = Admission(10)
    with admission.admit(query(8), LATER_S):
        with pytest.raises(OverloadedError) as refused, admission.admit(query(3), LATER_S):
            pass
        assert refused.value.retry_after_s > 0
        with admission.admit(query(2), LATER_S):
            assert admission.n_queries == 10
    with pytest.raises(KeyError), admission.admit(query(10), LATER_S):
        raise KeyError
    with admission.admit(query(1_000), LATER_S):
        pass
    assert admission.n_queries == 0


def test_cost_grows_with_what_a_shard_must_do():
    """Queries, lists, depth, text; brute force costs what its rows would fill in lists."""
    base = cost_of(query())
    assert cost_of(query(10)) == 10 * base
    assert cost_of(query(n_probe=64)) == base  # a call's own price covers so few lists
    wide = dataclasses.replace(query(), n_probe=1_024)
    assert cost_of(wide) == 16 * base
    assert cost_of(query(exact=True)) > 2 * base
    assert cost_of(query(k=1_000)) > base
    assert cost_of(text()) > base


FLAT = dataclasses.replace(INDEX, n_live_by_shard=(1_000_000,))


def exhaustive(n: int, priority: int) -> SearchQuery:
    row = pb.Query(vector=vectors.to_proto(VECTOR))
    asked = pb.SearchRequest(queries=[row] * n, exact=True, priority=priority)
    return resolve(asked, FLAT)


@pytest.mark.parametrize("n_queries", [64, 1_024])
def test_brute_force_is_let_in_beside_other_work(n_queries):
    """A query that reads a million rows costs 60 usual ones: that is time, and no memory."""
    crowd = Crowd()
    crowd.come(query())
    crowd.come(exhaustive(n_queries, priority_pb2.PRIORITY_INTERACTIVE))
    for _ in range(2):  # as `shoal eval --exact` keeps them under way
        crowd.come(exhaustive(n_queries, priority_pb2.PRIORITY_BULK))
    assert crowd.admission.n_queries == 1 + 3 * n_queries


def test_bulk_leaves_half_of_the_room_to_those_who_wait():
    """Over all indexes and kinds: each gate alone can't know of the others."""
    crowd = Crowd()
    other = dataclasses.replace(INDEX, name="papers")
    bulk = query(1_024, priority=priority_pb2.PRIORITY_BULK)
    for index in (INDEX, other) * 4:
        crowd.come(dataclasses.replace(bulk, index=index))
    with pytest.raises(OverloadedError, match="8192 bulk queries"):
        crowd.come(dataclasses.replace(bulk, index=other))
    crowd.come(query(1_024))
    for _ in range(9):
        crowd.go()
    assert crowd.admission.n_queries == 0
    crowd.come(bulk)


class Crowd:
    """Queries that come and stay, on a clock of their own."""

    def __init__(self, wait_s: float = 0.5) -> None:
        self.now_s = 0.0
        self.admission = Admission(16_384, wait_s=wait_s, clock=lambda: self.now_s)
        self.held: list = []

    def come(self, asked: SearchQuery, deadline_s: float = LATER_S) -> None:
        held = self.admission.admit(asked, deadline_s)
        held.__enter__()
        self.held.append(held)

    def go(self) -> None:
        self.held.pop(0).__exit__(None, None, None)


def test_texts_that_wait_for_a_hung_encoder_turn_away_no_vectors():
    """Fault 10: the text gate is stuck, and the vectors' is another."""
    crowd = Crowd()
    for _ in range(301):
        crowd.come(text())
    crowd.go()
    crowd.now_s = 5.0
    with pytest.raises(OverloadedError):
        crowd.come(text())
    for _ in range(300):
        crowd.come(query())


def test_bulk_gives_way_to_a_crowd():
    """While interactive queries fill the place, bulk ones are refused, apart from interactive ones
    in the page of metrics, and interactive ones not.
    """
    crowd, before = Crowd(), refused()
    for _ in range(400):
        crowd.come(query())
    crowd.now_s = 1.0
    for _ in range(150):
        crowd.go()
    # 250 wait at some 237 a second: above a half of the bound of 2 s, below the whole
    crowd.admission._gate(query())._limits = dataclasses.replace(
        crowd.admission._gate(query())._limits, wait_s=2.0
    )
    with pytest.raises(OverloadedError):
        crowd.come(query(3, priority=priority_pb2.PRIORITY_BULK))
    crowd.come(query())
    assert refused() == {**before, "bulk": before["bulk"] + 3}


def test_a_spent_deadline_is_told_before_any_work():
    """Fault 34: DEADLINE_EXCEEDED, and nothing is counted."""
    crowd = Crowd()
    with pytest.raises(DeadlineExceededError):
        crowd.come(query(), deadline_s=-1.0)
    assert crowd.admission.n_queries == 0


async def test_a_flood_is_shed_and_the_router_recovers(tmp_path):
    """Fault 38, small: of 2,000 calls at once to shards that hang, those past the bound get
    RESOURCE_EXHAUSTED with RetryInfo; when they are gone, the next is answered."""
    # one process plays all: a flood may keep its checks waiting
    async with running(tmp_path, max_queries=200, check_timeout_s=30.0) as cluster:
        for replica in cluster.replicas:
            replica.script.gate.clear()
        calls = [cluster.stub.Search(vector_request(VECTOR), timeout=60) for _ in range(2_000)]
        refused: list[grpc.aio.AioRpcError] = []

        async def end(call) -> None:
            try:
                await call
            except grpc.aio.AioRpcError as failure:
                refused.append(failure)

        ends = asyncio.gather(*map(end, calls))
        await eventually(lambda: len(refused) > 1_500, within_s=60)
        assert cluster.admission.n_queries <= 200
        for failure in refused:
            error = error_of(failure)
            assert isinstance(error, OverloadedError), failure
            assert error.retry_after_s > 0
        for replica in cluster.replicas:
            replica.script.gate.set()
        await ends
        assert (await cluster.search(vector_request(VECTOR))).coverage == 1.0
        assert cluster.n_under_way == 0


async def test_little_time_means_fewer_lists_and_the_answer_says_so(tmp_path):
    """n_probe shrinks for the default alone, one for all shards, and what was wanted is told."""
    async with running(tmp_path, recipe="IVF64,PQ4") as cluster:
        for _ in range(20):
            plain = await cluster.search(vector_request(VECTOR))
        assert (plain.n_probe, plain.n_probe_wanted) == (16, 0)
        searcher = cluster.searcher
        (name,) = searcher._costs
        model = searcher._costs[name]
        for _ in range(400):  # a day on which every round takes 15 s: a deadline of 20 s is little
            model = model.seen(16, 15.0)
        searcher._costs[name] = model
        short = await cluster.search(vector_request(VECTOR))
        assert (short.n_probe, short.n_probe_wanted) == (4, 16)
        assert {replica.script.last.n_probe for replica in cluster.replicas} == {4}
        asked = await cluster.search(vector_request(VECTOR, n_probe=32))
        assert (asked.n_probe, asked.n_probe_wanted) == (32, 0)
        exact = await cluster.search(vector_request(VECTOR, exact=True))
        assert (exact.n_probe, exact.n_probe_wanted) == (0, 0)


async def test_bulk_neither_teaches_what_shrinks_nor_shrinks(tmp_path):
    """It waits behind all: interactive searches would lose recall for times that are not theirs."""
    async with running(tmp_path, recipe="IVF64,PQ4") as cluster:
        bulk = {"priority": priority_pb2.PRIORITY_BULK}
        for _ in range(20):
            await cluster.search(vector_request(VECTOR, **bulk))
        costs = cluster.searcher._costs
        assert not costs
        model = CostModel()
        for _ in range(400):
            model = model.seen(16, 15.0)
        costs["books"] = model
        assert (await cluster.search(vector_request(VECTOR, **bulk))).n_probe == 16
        assert (await cluster.search(vector_request(VECTOR))).n_probe == 4


async def test_texts_and_vectors_leave_nothing_counted(tmp_path):
    """Fault 36: after 200 calls cancelled on their way, both gates and the count are at 0."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].gate.clear()
        for replica in cluster.replicas:
            replica.script.gate.clear()
        calls = [cluster.stub.Search(vector_request(VECTOR)) for _ in range(100)]
        calls += [cluster.stub.Search(text_request("a")) for _ in range(100)]
        await eventually(lambda: cluster.admission.n_queries == 200)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: cluster.admission.n_queries == 0)
        await eventually(lambda: cluster.n_under_way == 0)
        gates = cluster.admission._gates.values()
        assert [gate.load.interactive for gate in gates] == [0, 0]
