"""A request with fields that this release doesn't know is refused, naming them."""

import numpy as np
import pytest

from shoal import vectors
from shoal.errors import InvalidArgumentError
from shoal.rpc.unknown import refuse_unknown_fields
from shoal.v1 import search_pb2 as pb
from shoal.v1 import vectors_pb2

UNKNOWN = b"\xf8\x07\x01"  # field 127, a varint


def newer(message):
    """The message as a newer client would send it."""
    return type(message).FromString(message.SerializeToString() + UNKNOWN)


def test_known_requests_pass():
    """Empty, full, and with the enum values of tomorrow (which `resolve` refuses by name)."""
    refuse_unknown_fields(pb.SearchRequest())
    request = pb.SearchRequest(k=3, mode=77, queries=[pb.Query(text="a"), pb.Query()])
    request.queries[1].vector.CopyFrom(vectors.to_proto(np.ones((1, 9))))
    request.fields.paths.append("text")
    refuse_unknown_fields(request)


def test_the_place_is_named():
    """On top, in a message, in a repeated one, and deep down."""
    assert _refused(newer(pb.SearchRequest(k=3))) == "127"
    assert _refused(pb.SearchRequest(filter=newer(pb.Filter(expression="x")))) == "filter.127"
    repeated = pb.SearchRequest(queries=[pb.Query(text="a"), newer(pb.Query(text="b"))])
    assert _refused(repeated) == "queries[1].127"
    deep = pb.Query(vector=newer(vectors_pb2.Vectors(n_rows=1)))
    item = pb.StreamSearchRequest(request=pb.SearchRequest(queries=[deep]))
    assert _refused(item) == "request.queries[0].vector.127"


def test_every_one_is_named_but_not_thousands():
    """Several unknown fields are listed; a flood of them keeps the message short."""
    two = pb.SearchRequest.FromString(UNKNOWN + b"\x80\x08\x01")
    with pytest.raises(InvalidArgumentError, match="127, 128"):
        refuse_unknown_fields(two)
    with pytest.raises(InvalidArgumentError) as caught:
        refuse_unknown_fields(pb.SearchRequest.FromString(UNKNOWN * 5_000))
    assert len(caught.value.message) < 300


def test_the_request_is_left_as_it_was():
    """The check looks and changes nothing."""
    request = newer(pb.SearchRequest(k=3))
    before = request.SerializeToString()
    _refused(request)
    assert request.SerializeToString() == before


def _refused(message) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        refuse_unknown_fields(message)
    return caught.value.field
