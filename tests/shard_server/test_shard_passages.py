"""Passages by their places, in the order asked for."""

import numpy as np
import pytest

from shard_server.passages import check_fields, read_passages
from shoal.errors import InvalidArgumentError


def texts(column):
    return [
        column.data[begin:end].decode()
        for begin, end in zip(column.offsets[:-1], column.offsets[1:], strict=True)
    ]


@pytest.fixture
def files(tmp_path, write_index, open_shard):
    manifest = write_index(tmp_path, "Flat", n_segments=3, n_rows=30, metadata=True)
    return open_shard(tmp_path, manifest).passages


def test_passages_come_in_the_order_asked_for(files):
    """Places of several segments, mixed and repeated: entry i is passage i's."""
    segments = np.array([2, 0, 1, 0, 2, 2], dtype=np.uint32)
    rows = np.array([9, 0, 3, 7, 9, 0], dtype=np.uint32)
    columns = read_passages(files, segments, rows, ("id", "title", "text", "metadata"))
    numbers = [10 * s + r for s, r in zip(segments.tolist(), rows.tolist(), strict=True)]
    assert texts(columns.texts["id"]) == [f"p{i}" for i in numbers]
    assert texts(columns.texts["title"]) == [f"title {i}" for i in numbers]
    assert texts(columns.texts["text"]) == [f"text {i} é" * (i % 3 + 1) for i in numbers]
    wanted = [{"tags": [f"t{i}"]} | ({} if i % 2 else {"page": i}) for i in numbers]
    assert columns.metadata == wanted


def test_one_segment_gives_what_several_give(files):
    """The short way for the usual case answers alike."""
    rows = np.array([4, 4, 1], dtype=np.uint32)
    columns = read_passages(files, np.ones(3, dtype=np.uint32), rows, ("id",))
    assert texts(columns.texts["id"]) == ["p14", "p14", "p11"]
    assert columns.metadata is None
    assert set(columns.texts) == {"id"}


def test_no_places_are_no_passages(files):
    """A search without hits has empty columns, not absent ones."""
    nothing = np.empty(0, dtype=np.uint32)
    columns = read_passages(files, nothing, nothing, ("id", "metadata"))
    assert texts(columns.texts["id"]) == []
    assert columns.metadata == []


@pytest.mark.parametrize(("segment", "row"), [(3, 0), (0, 10), (2**32 - 1, 2**32 - 1)])
def test_a_place_that_is_not_there_is_refused(files, segment, row):
    """No row may lead into another passage's bytes."""
    places = [np.array([0, at], dtype=np.uint32) for at in (segment, row)]
    with pytest.raises(InvalidArgumentError, match=r"rows\[1\]"):
        read_passages(files, *places, ("id",))


def test_unknown_fields_are_named():
    """A misspelled field is an error, not an absent column."""
    assert check_fields(["text", "id", "text"], "fields") == ("text", "id")
    with pytest.raises(InvalidArgumentError, match=r"fields.paths\[1\] is 'body'"):
        check_fields(["id", "body"], "fields")
