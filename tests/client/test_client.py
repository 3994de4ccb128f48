"""Both clients against a real server with a script: answers, errors, retries, time limits."""

import inspect
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from shoal import errors
from shoal.answers import Accuracy, Outcome, ScoreKind
from shoal.attempts import refuse_oversized
from shoal.client import AsyncClient, Client
from shoal.requests import SearchOptions
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb
from shoal.vectors import from_proto

HIT = pb.Hit(
    passage=pb.Passage(
        id="p1",
        title="Iliad",
        text="Homer wrote it.",
        metadata={
            "year": pb.Value(int_value=-700),
            "mean": pb.Value(double_value=0.5),
            "epic": pb.Value(bool_value=True),
            "tags": pb.Value(string_list_value=pb.StringList(values=["a", "b"])),
            "by": pb.Value(string_value="Homer"),
        },
    ),
    score=0.75,
    accuracy=pb.ACCURACY_EXACT,
    ordinal=41,
    shard=1,
)
RESPONSE = pb.SearchResponse(
    results=[pb.QueryResult(hits=[HIT], query_truncated=True)],
    index="greek",
    version=3,
    coverage=0.5,
    shards=[
        pb.ShardOutcome(shard=0, outcome=pb.OUTCOME_DOWN, n_live=5, detail="no replica"),
        pb.ShardOutcome(shard=1, outcome=pb.OUTCOME_OK, n_live=5, elapsed_ms=1.5),
    ],
    encoder_fingerprint="f00",
    n_probe=8,
    candidates=100,
    score_kind=pb.SCORE_KIND_INNER_PRODUCT,
    timings=pb.StageTimings(encode_ms=2, search_ms=3, fetch_ms=5, total_ms=10),
    request_id="r-1",
)  # fmt: skip


async def test_an_answer_keeps_all_that_the_server_said(router, ask):
    """Every field of the response is found in the answer, with Python's own types."""
    router.steps = [RESPONSE]
    answer = await ask(router.target, "search", "who wrote the iliad?", k=5)
    (hit,) = answer.hits
    assert (hit.id, hit.title, hit.text, hit.ordinal, hit.shard) == (
        "p1", "Iliad", "Homer wrote it.", 41, 1)  # fmt: skip
    assert hit.score == 0.75
    assert hit.accuracy is Accuracy.EXACT
    assert hit.metadata == {
        "year": -700, "mean": 0.5, "epic": True, "tags": ("a", "b"), "by": "Homer"}  # fmt: skip
    assert [shard.outcome for shard in answer.shards] == [Outcome.DOWN, Outcome.OK]
    assert (answer.index, answer.version, answer.coverage) == ("greek", 3, 0.5)
    assert (answer.n_probe, answer.candidates) == (8, 100)
    assert answer.score_kind is ScoreKind.INNER_PRODUCT
    assert answer.timings.total_ms == 10
    assert answer.query_truncated
    assert answer.request_id == "r-1"
    assert answer.encoder_fingerprint == "f00"


async def test_what_is_not_given_is_not_sent(router, ask):
    """The server's defaults hold for every option that the caller leaves out."""
    router.steps = [RESPONSE]
    await ask(router.target, "search", "a")
    assert router.requests[0] == pb.SearchRequest(queries=[pb.Query(text="a")])


async def test_every_option_reaches_the_server(router, ask):
    """Each keyword of search lands in the field of its name."""
    router.steps = [RESPONSE]
    await ask(
        router.target, "search", "a", k=3, index="greek", n_probe=4, oversample=2.0, exact=False,
        min_coverage=0.5, offset=1, fields=["title"], score_threshold=0.25, priority="bulk",
    )  # fmt: skip
    sent = router.requests[0]
    assert (sent.k, sent.index, sent.n_probe, sent.oversample) == (3, "greek", 4, 2.0)
    assert sent.HasField("exact")
    assert not sent.exact
    assert (sent.min_coverage, sent.offset, sent.score_threshold) == (0.5, 1, 0.25)
    assert list(sent.fields.paths) == ["title"]
    assert sent.priority == priority_pb2.PRIORITY_BULK


async def test_empty_fields_ask_for_ids_only(router, ask):
    """An empty mask is sent as one: it means ids and scores, not "everything"."""
    router.steps = [RESPONSE]
    await ask(router.target, "search", "a", fields=())
    assert router.requests[0].HasField("fields")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
async def test_vectors_travel_as_they_are(router, ask, dtype):
    """A (dim,) array and an (n, dim) array arrive with their values."""
    matrix = np.arange(6, dtype=dtype).reshape(2, 3)
    router.steps = [pb.SearchResponse(results=[pb.QueryResult(), pb.QueryResult()])]
    await ask(router.target, "search_many", matrix)
    rows = [from_proto(query.vector, "vector") for query in router.requests[0].queries]
    np.testing.assert_array_equal(np.vstack(rows), matrix)
    router.steps = [RESPONSE]
    await ask(router.target, "search", vector=matrix[1])
    np.testing.assert_array_equal(
        from_proto(router.requests[1].queries[0].vector, "vector"), matrix[1:]
    )


async def test_results_come_in_the_order_of_the_queries(router, ask):
    """`answers[i]` belongs to query i."""
    hits = [pb.QueryResult(hits=[pb.Hit(passage=pb.Passage(id=str(i)))]) for i in range(3)]
    router.steps = [pb.SearchResponse(results=hits)]
    answers = await ask(router.target, "search_many", ["a", "b", "c"])
    assert [result.hits[0].id for result in answers] == ["0", "1", "2"]
    assert len(answers) == 3
    assert answers[2].hits[0].id == "2"


@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        ([], {}, "query"),
        (["a"], {"vector": np.zeros(3, np.float32)}, "query"),
        ([], {"vector": np.zeros((1, 3), np.float32)}, "vector"),
        ([], {"vector": np.array(["a"])}, "vector"),
        (["a"], {"k": "ten"}, "k"),
        (["a"], {"k": 2**40}, "k"),
        (["a"], {"priority": "urgent"}, "priority"),
        (["a"], {"fields": "text"}, "fields"),
    ],
)
async def test_what_no_message_can_carry_is_refused_here(router, ask, arguments, options, field):
    """A wrong type or shape is an InvalidArgumentError that names the argument, before any call."""
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await ask(router.target, "search", *arguments, **options)
    assert caught.value.field == field
    assert not router.requests


@pytest.mark.parametrize("target", ["", "localhost", "localhost:0", 5, None])
async def test_a_target_that_is_no_address_is_refused(ask, target):
    """Both clients refuse it when they are made, not at the first call."""
    with pytest.raises(errors.InvalidArgumentError, match=r"^target must be HOST:PORT") as caught:
        await ask(target, "search", "a")
    assert caught.value.field == "target"


@pytest.mark.parametrize("method", ["search", "list_indexes", "wait_ready"])
@pytest.mark.parametrize(
    "timeout_s", [0, -1, float("nan"), float("inf"), 86_401, 10**400, -(10**400), "5", None]
)
async def test_a_time_limit_that_is_none_is_refused(router, ask, method, timeout_s):
    """Not a call without an end, nor one that is over before it begins."""
    query = ["a"] if method == "search" else []
    with pytest.raises(errors.InvalidArgumentError, match="at most 86,400") as caught:
        await ask(router.target, method, *query, timeout_s=timeout_s)
    assert caught.value.field == "timeout_s"
    assert not router.requests


async def test_a_time_limit_of_a_day_is_taken(router, ask):
    """The longest, and another library's number."""
    router.steps = [RESPONSE]
    await ask(router.target, "search", "a", timeout_s=86_400)
    await ask(router.target, "search", "a", timeout_s=np.float32(5))


@pytest.mark.parametrize("request_id", ["", "a b", "a\n", "é", "\ud800", "x" * 129, 5, b"a"])
async def test_a_request_id_that_no_log_would_show_is_refused(router, ask, request_id):
    """The server would put another in its place, and the caller would look for it in vain."""
    with pytest.raises(errors.InvalidArgumentError, match="1 to 128 printable ASCII") as caught:
        await ask(router.target, "search", "a", request_id=request_id)
    assert caught.value.field == "request_id"
    assert not router.requests


async def test_the_longest_request_id_arrives(router, ask):
    """128 characters, all that is printable among them."""
    router.steps = [RESPONSE]
    longest = "".join(map(chr, range(33, 127))) + "x" * 34
    await ask(router.target, "search", "a", request_id=longest)
    assert router.request_ids == [longest]


async def test_a_request_that_no_server_takes_is_refused_here(router, ask):
    """Its size stands in the message; it isn't overload, which would be worth a second try."""
    matrix = np.ones((1024, 4096), np.float32)
    with pytest.raises(errors.InvalidArgumentError, match=r"has 16,796,672 bytes.*split the call"):
        await ask(router.target, "search_many", matrix)
    assert not router.requests


def test_the_limit_itself_is_taken():
    """16 MiB and not a byte more."""
    refuse_oversized(16 * 1024 * 1024)
    with pytest.raises(
        errors.InvalidArgumentError, match=r"has 16,777,217 bytes, at most 16,777,216"
    ):
        refuse_oversized(16 * 1024 * 1024 + 1)


async def test_an_unknown_option_is_a_type_error(router, ask):
    """A misspelt keyword must not be dropped silently."""
    with pytest.raises(TypeError, match="nprobe"):
        await ask(router.target, "search", "a", nprobe=3)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError("k is 0", field="k"),
        errors.NotFoundError("no index 'x'"),
        errors.FailedPreconditionError("another encoder"),
        errors.UnsupportedError("filter"),
        errors.InsufficientCoverageError("coverage 0.5 is below 1.0"),
        errors.DeadlineExceededError("too late"),
        errors.InternalError("bug"),
    ],
)
async def test_errors_come_typed_and_at_once(router, ask, error):
    """The client raises the server's class, with its message, code and request id; one attempt."""
    router.steps = [error]
    with pytest.raises(type(error)) as caught:
        await ask(router.target, "search", "a", request_id="mine", timeout_s=60)
    assert type(caught.value) is type(error)
    assert caught.value.code == error.code
    assert caught.value.request_id == "mine"
    assert router.request_ids == ["mine"]


async def test_unavailable_is_tried_again_under_the_same_request_id(router, ask):
    """A replica that comes back within the time limit costs the caller nothing but time."""
    router.steps = [errors.UnavailableError("starting")] * 2 + [RESPONSE]
    answer = await ask(router.target, "search", "a", request_id="mine")
    assert answer.index == "greek"
    assert router.request_ids == ["mine"] * 3


async def test_unavailable_is_given_up_after_four_attempts(router, ask):
    """Retries are few: a dead cluster must not be flooded."""
    router.steps = [errors.UnavailableError("down")]
    with pytest.raises(errors.UnavailableError, match="down"):
        await ask(router.target, "search", "a")
    assert len(router.requests) == 4


async def test_cancelled_by_the_server_is_tried_again(router, ask):
    """A stopping server answers CANCELLED to calls that nobody cancelled."""
    router.steps = [errors.CancelledError("stopping"), RESPONSE]
    assert (await ask(router.target, "search", "a")).index == "greek"


async def test_overload_is_tried_again_when_the_server_says(router, ask):
    """RESOURCE_EXHAUSTED waits for RetryInfo's delay, not less."""
    router.steps = [errors.OverloadedError("full", retry_after_s=0.3), RESPONSE]
    begun_s = time.monotonic()
    await ask(router.target, "search", "a")
    assert time.monotonic() - begun_s >= 0.3
    assert len(router.requests) == 2


async def test_overload_beyond_the_time_limit_is_told_at_once(router, ask):
    """Nobody waits for a retry that could not be answered in time."""
    router.steps = [errors.OverloadedError("full", retry_after_s=60.0)]
    with pytest.raises(errors.OverloadedError) as caught:
        await ask(router.target, "search", "a", timeout_s=50)
    assert caught.value.retry_after_s == 60.0
    assert len(router.requests) == 1


async def test_the_time_limit_holds(router, ask):
    """Nobody waits for an answer past timeout_s, and the message names it."""
    router.steps = [3_600.0]
    with pytest.raises(errors.DeadlineExceededError, match=r"within 0\.2 s"):
        await ask(router.target, "search", "a", timeout_s=0.2)


async def test_a_dead_target_is_unavailable_and_named(ask, dead_address):
    """Where nothing listens, the error says where, in words."""
    with pytest.raises(errors.UnavailableError, match=f"no server answers at {dead_address}"):
        await ask(dead_address, "search", "a", timeout_s=60)


async def test_a_server_that_loses_results_is_found_out(router, ask):
    """Results are matched to queries by place, so their number must be right."""
    router.steps = [pb.SearchResponse(results=[])]
    with pytest.raises(errors.InternalError, match="0 results came for 1"):
        await ask(router.target, "search", "a")


async def test_indexes_are_described(router, ask):
    """list_indexes and get_index read the same description."""
    created_at = Timestamp(seconds=1_700_000_000)
    index = pb.Index(
        name="greek", version=3, n_live=10, coverage=1.0, dim=4, n_shards=2, recipe="Flat",
        score_kind=pb.SCORE_KIND_INNER_PRODUCT, create_time=created_at,
        operating_points=[pb.OperatingPoint(n_probe=2, oversample=4, recall=0.5, k=10)],
    )  # fmt: skip
    router.steps = [pb.ListIndexesResponse(indexes=[index]), pb.GetIndexResponse(index=index)]
    (listed,) = await ask(router.target, "list_indexes")
    got = await ask(router.target, "get_index", "greek")
    assert listed == got
    assert (got.name, got.version, got.dim, got.n_shards) == ("greek", 3, 4, 2)
    assert got.operating_points[0].n_probe == 2
    assert got.created_at == datetime.fromtimestamp(1_700_000_000, UTC)


async def test_wait_ready_returns_when_the_cluster_serves(router, ask):
    """It asks gRPC's own health service for the search service."""
    await ask(router.target, "wait_ready", 60.0)
    await router.serving(health_pb2.HealthCheckResponse.NOT_SERVING)
    for timeout_s in (0.2, 2.0, 20.0):  # a busy machine may need longer for one answer
        with pytest.raises(errors.UnavailableError) as told:
            await ask(router.target, "wait_ready", timeout_s)
        if "it is starting" in told.value.message:
            break
    assert "it is starting" in told.value.message


def test_both_clients_have_one_surface():
    """Same names, same parameters: only `await` differs."""

    def surface(cls):
        return {
            name: str(inspect.signature(member))
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)
    assert set(surface(Client)) == {
        "search", "search_many", "list_indexes", "get_index", "wait_ready", "close"}  # fmt: skip
    assert set(SearchOptions.__annotations__) == {
        "k", "index", "n_probe", "oversample", "exact", "min_coverage", "offset", "fields",
        "score_threshold", "target_recall", "priority"}  # fmt: skip
