"""Requests are refused by field before any work, and only with the errors of the contract."""

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given, settings
from hypothesis import strategies as st

from router.query import SearchQuery, resolve
from router.topology import IndexVersion, OperatingPoint
from shoal import vectors
from shoal.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError
from shoal.v1 import search_pb2 as pb
from shoal.v1 import vectors_pb2

DIM = 4


def index(**changes: object) -> IndexVersion:
    known = {
        "name": "books",
        "version": 1,
        "dim": DIM,
        "recipe": "IVF64,PQ4",
        "score_kind": pb.SCORE_KIND_INNER_PRODUCT,
        "n_lists": 64,
        "default_n_probe": 16,
        "default_oversample": 10.0,
        "n_live_by_shard": (500, 500),
        "question_fingerprint": "f",
        "encoder_model": "m",
        "operating_points": (
            OperatingPoint(n_probe=8, oversample=10.0, recall=0.8, k=10),
            OperatingPoint(n_probe=32, oversample=20.0, recall=0.95, k=10),
            OperatingPoint(n_probe=48, oversample=20.0, recall=0.97, k=100),
        ),
        "created_at_ns": 0,
    }
    return IndexVersion(**known | changes)


def vector(*values: float) -> pb.Query:
    return pb.Query(vector=vectors.to_proto(np.array([values], dtype=np.float32)))


def packed(data: bytes, **changes: int) -> pb.Query:
    return pb.Query(vector=vectors_pb2.Vectors(**{"n_rows": 1, "dim": DIM} | changes, packed=data))


GOOD = vector(1, 2, 3, 4)
LONG = "ä" * (32 * 1024) + "x"  # a byte too many


def test_defaults_are_the_indexs_own():
    """A bare request: k 10, the index's n_probe and oversample, all fields, full coverage."""
    query = resolve(pb.SearchRequest(queries=[GOOD, pb.Query(text="a")]), index())
    assert (query.k, query.offset, query.depth, query.n_probe, query.candidates) == (
        10, 0, 10, 16, 100)  # fmt: skip
    assert (query.min_coverage, query.exact, query.score_threshold) == (1.0, False, None)
    assert query.fields == {"title", "text", "metadata"}
    assert (query.texts, query.text_places, query.vector_places) == (("a",), (1,), (0,))
    assert query.vectors.tolist() == [[1, 2, 3, 4]]


REFUSED = [
    ("queries", pb.SearchRequest()),
    ("queries", pb.SearchRequest(queries=[GOOD] * 1_025)),
    ("k", pb.SearchRequest(queries=[GOOD], k=0)),
    ("k", pb.SearchRequest(queries=[GOOD], k=-1)),
    ("k", pb.SearchRequest(queries=[GOOD], k=1_001)),
    ("k", pb.SearchRequest(queries=[GOOD], k=2**31 - 1)),
    ("offset", pb.SearchRequest(queries=[GOOD], offset=-1)),
    ("offset", pb.SearchRequest(queries=[GOOD], k=1_000, offset=1)),
    ("n_probe", pb.SearchRequest(queries=[GOOD], n_probe=0)),
    ("n_probe", pb.SearchRequest(queries=[GOOD], n_probe=-5)),
    ("n_probe", pb.SearchRequest(queries=[GOOD], n_probe=2_049)),
    ("oversample", pb.SearchRequest(queries=[GOOD], oversample=0.5)),
    ("oversample", pb.SearchRequest(queries=[GOOD], oversample=-1)),
    ("oversample", pb.SearchRequest(queries=[GOOD], oversample=float("nan"))),
    ("oversample", pb.SearchRequest(queries=[GOOD], oversample=float("inf"))),
    ("oversample", pb.SearchRequest(queries=[GOOD], oversample=3e38)),
    ("min_coverage", pb.SearchRequest(queries=[GOOD], min_coverage=1.1)),
    ("min_coverage", pb.SearchRequest(queries=[GOOD], min_coverage=-0.1)),
    ("min_coverage", pb.SearchRequest(queries=[GOOD], min_coverage=float("nan"))),
    ("score_threshold", pb.SearchRequest(queries=[GOOD], score_threshold=float("nan"))),
    ("score_threshold", pb.SearchRequest(queries=[GOOD], score_threshold=float("inf"))),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=0)),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=1.5)),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=float("nan"))),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=0.9, n_probe=4)),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=0.9, oversample=4)),
    ("target_recall", pb.SearchRequest(queries=[GOOD], target_recall=0.9, exact=True)),
    ("priority", pb.SearchRequest(queries=[GOOD], priority=7)),
    ("fields", pb.SearchRequest(queries=[GOOD], fields=FieldMask(paths=["txt"]))),
    ("fields", pb.SearchRequest(queries=[GOOD], fields=FieldMask(paths=["id" * 10**6]))),
    ("queries", pb.SearchRequest(queries=[GOOD] * 1_024, k=1_000)),
    ("queries", pb.SearchRequest(queries=[GOOD] * 100, k=1_000, fields=FieldMask(paths=["title"]))),
    ("queries[1].text", pb.SearchRequest(queries=[GOOD, pb.Query()])),
    ("queries[0].text", pb.SearchRequest(queries=[pb.Query(text="")])),
    ("queries[0].text", pb.SearchRequest(queries=[pb.Query(text=" \t\n\u2003")])),
    ("queries[2].text", pb.SearchRequest(queries=[GOOD, GOOD, pb.Query(text=LONG)])),
    ("queries[1].vector", pb.SearchRequest(queries=[GOOD, vector(1, 2, 3)])),
    ("queries[1].vector", pb.SearchRequest(queries=[GOOD, vector(1, 2, 3, np.nan)])),
    ("queries[0].vector", pb.SearchRequest(queries=[vector(1, 2, 3, np.inf)])),
    ("queries[0].vector", pb.SearchRequest(queries=[vector(1, -np.inf, 3, 4)])),
    ("queries[0].vector", pb.SearchRequest(queries=[vector(1, 2, 3, 1e38)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"\0" * 15)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"")])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"\0" * 16, dtype=2)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"\0" * 16, dtype=9)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"\0" * 16, dtype=-1)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"\0" * 32, n_rows=2)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"", n_rows=0)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"", n_rows=2**32 - 1)])),
    ("queries[0].vector", pb.SearchRequest(queries=[packed(b"", dim=2**32 - 1)])),
    ("queries[0].vector", pb.SearchRequest(queries=[pb.Query(vector=vectors_pb2.Vectors())])),
]


@pytest.mark.parametrize(("field", "request_"), REFUSED, ids=lambda value: str(value)[:30])
def test_bad_requests_are_refused_by_field(field, request_):
    """Faults 27 to 32: every refusal names the field as the caller wrote it, in a short line."""
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(request_, index())
    assert caught.value.field == field
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("error", "request_", "changes"),
    [
        (UnsupportedError, pb.SearchRequest(queries=[GOOD], mode=2), {}),
        (UnsupportedError, pb.SearchRequest(queries=[GOOD], mode=77), {}),
        (UnsupportedError, pb.SearchRequest(queries=[GOOD], filter=pb.Filter()), {}),
        (
            FailedPreconditionError,
            pb.SearchRequest(queries=[pb.Query(text="a")]),
            {"question_fingerprint": ""},
        ),
        (FailedPreconditionError, pb.SearchRequest(queries=[GOOD], target_recall=0.99), {}),
        (
            FailedPreconditionError,
            pb.SearchRequest(queries=[GOOD], target_recall=0.5),
            {"operating_points": ()},
        ),
    ],
)
def test_what_this_release_or_index_lacks(error, request_, changes):
    """Modes, filters, texts for bare vectors, a recall that nothing reaches."""
    with pytest.raises(error):
        resolve(request_, index(**changes))


@pytest.mark.parametrize(
    ("recall", "k", "offset", "settings_"),
    [
        (0.5, 10, 0, (8, 100)),
        (0.9, 10, 0, (32, 200)),
        (0.9, 1, 0, (32, 200)),  # as many candidates as were measured, though k is less
        (0.96, 10, 0, (48, 2_000)),  # only the points at a larger k promise as much
        (0.9, 50, 0, (48, 2_000)),
        (0.9, 5, 10, (48, 2_000)),  # the second page needs the depth of both
    ],
)
def test_target_recall_chooses_the_cheapest_point(recall, k, offset, settings_):
    """The first point that promises it, of those at the least k that reaches so deep."""
    request = pb.SearchRequest(queries=[GOOD], target_recall=recall, k=k, offset=offset)
    query = resolve(request, index())
    assert (query.n_probe, query.candidates) == settings_


def test_points_stand_cheapest_first():
    """The order of the points is the order of their cost: the router looks no further."""
    dear_first = (
        OperatingPoint(n_probe=40, oversample=10.0, recall=0.9, k=10),
        OperatingPoint(n_probe=12, oversample=100.0, recall=0.92, k=10),
    )
    request = pb.SearchRequest(queries=[GOOD], target_recall=0.9)
    assert resolve(request, index(operating_points=dear_first)).n_probe == 40


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"target_recall": 0.99}, "the best promises 0.970"),
        ({"target_recall": 0.5, "k": 200}, "calibrated for k up to 100, not 200"),
    ],
)
def test_a_recall_that_nothing_promises_says_what_is_there(request_, told):
    """The refusal names the best recall, or the largest k, that was calibrated."""
    with pytest.raises(FailedPreconditionError, match=told):
        resolve(pb.SearchRequest(queries=[GOOD], **request_), index())


def test_flat_meets_any_recall():
    """Exact search needs no calibration to promise everything."""
    flat = index(recipe="Flat", n_lists=0, default_n_probe=0, operating_points=())
    query = resolve(pb.SearchRequest(queries=[GOOD], target_recall=1.0), flat)
    assert (query.exact, query.n_probe, query.candidates) == (True, 0, 0)


@pytest.mark.parametrize(
    ("request_", "changes", "settings_"),
    [
        ({"n_probe": 2_048}, {}, (64, 100, False)),
        ({"oversample": 0}, {}, (16, 0, False)),
        ({"oversample": 2_048, "k": 1_000}, {}, (16, 2_048, False)),
        ({"exact": True}, {}, (0, 0, True)),
        ({"n_probe": 8}, {"recipe": "Flat", "n_lists": 0, "default_n_probe": 0}, (0, 0, True)),
        ({"k": 20, "offset": 30}, {}, (16, 500, False)),
    ],
)
def test_settings_follow_the_index(request_, changes, settings_):
    """n_probe is at most the lists there are; Flat and exact need none; a page needs its depth."""
    query = resolve(pb.SearchRequest(queries=[GOOD], **request_), index(**changes))
    assert (query.n_probe, query.candidates, query.exact) == settings_


def test_edges_that_are_allowed():
    """Faults 28 to 32: the last good value of each range."""
    resolve(pb.SearchRequest(queries=[GOOD], k=1_000), index())
    resolve(pb.SearchRequest(queries=[GOOD], k=1, offset=999), index())
    resolve(pb.SearchRequest(queries=[GOOD] * 1_024, k=10), index())
    resolve(pb.SearchRequest(queries=[GOOD] * 1_024, k=500, fields=FieldMask()), index())
    resolve(pb.SearchRequest(queries=[pb.Query(text=LONG[:-1])]), index())
    resolve(pb.SearchRequest(queries=[pb.Query(text="\x00")]), index())
    resolve(pb.SearchRequest(queries=[vector(1e-45, -1e-40, 0, 1e15)]), index())
    resolve(pb.SearchRequest(queries=[vector(0, 0, 0, 0)]), index())


def _enum() -> st.SearchStrategy[int]:
    return st.integers(-1, 4)


FLOATS = st.floats(width=32)
VECTORS = st.builds(
    vectors_pb2.Vectors,
    n_rows=st.sampled_from([0, 1, 1, 1, 2, 2**32 - 1]),
    dim=st.sampled_from([0, DIM, DIM, DIM, 3, 2**32 - 1]),
    dtype=_enum(),
    packed=st.binary(max_size=40) | st.binary(min_size=16, max_size=16),
) | st.builds(
    vectors_pb2.Vectors,
    n_rows=st.just(1),
    dim=st.just(DIM),
    dtype=_enum(),
    floats=st.builds(vectors_pb2.FloatList, values=st.lists(FLOATS, max_size=6)),
)
QUERIES = st.lists(
    st.builds(pb.Query, text=st.text(max_size=20)) | st.builds(pb.Query, vector=VECTORS), max_size=4
)
ints = st.none() | st.integers(-(2**31), 2**31 - 1) | st.integers(0, 2_100)
REQUESTS = st.builds(
    pb.SearchRequest,
    queries=QUERIES,
    mode=st.none() | _enum(),
    k=ints,
    n_probe=ints,
    offset=ints,
    oversample=st.none() | FLOATS,
    exact=st.none() | st.booleans(),
    min_coverage=st.none() | FLOATS,
    filter=st.none() | st.builds(pb.Filter),
    priority=st.none() | _enum(),
    fields=st.none() | st.builds(FieldMask, paths=st.lists(st.text(max_size=5), max_size=2)),
    score_threshold=st.none() | FLOATS,
    target_recall=st.none() | FLOATS,
)


@settings(max_examples=500)
@given(REQUESTS)
def test_any_request_resolves_or_is_refused(request_):
    """Whatever comes: a query within every limit, or one of three kinds of refusal."""
    try:
        query = resolve(request_, index())
    except InvalidArgumentError as error:
        refused_field = error.field
    except (UnsupportedError, FailedPreconditionError):
        refused_field = "named in the message"
    else:
        check_limits(query)
        return
    assert refused_field


def check_limits(query: SearchQuery) -> None:
    assert 1 <= query.n_queries <= 1_024
    assert 1 <= query.k <= query.depth <= 1_000
    assert 0 <= query.n_probe <= 64
    assert 0 <= query.candidates <= 2_048
    assert 0.0 <= query.min_coverage <= 1.0
    assert query.vectors.shape == (len(query.vector_places), DIM)
    assert np.isfinite(query.vectors).all()
    assert sorted(query.text_places + query.vector_places) == list(range(query.n_queries))
