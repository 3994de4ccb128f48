"""Names of indexes in requests: no way out of a folder, an escape or a device in any of them."""

import os
import sys

import grpc
import pytest
from fakes.asking import refusal, request
from fakes.cluster import running

from shoal.internal.v1 import admin_pb2
from shoal.v1 import search_pb2

NAMES = ["../books", "..", ".", "/etc/passwd", "books\0", "%2e%2e", "%2e%2e%2fbooks", "a/b", "a\\b",
         "\uff0e\uff0e\uff0fbooks", "a\u2215b", "CON", "con", "nul", "com1", "Books", "books\n",
         "b" * 65]  # fmt: skip


@pytest.mark.parametrize("method", ["Search", "GetIndex", "ReloadIndex"])
async def test_names_in_requests_open_nothing(tmp_path, method):
    """Fault 47: INVALID_ARGUMENT naming the field, and not one file is opened for any of them."""
    opened: list[str] = []
    is_asked = [True]

    # a hook can't be taken away, but it can be made to look away
    def note(event: str, arguments: tuple[object, ...]) -> None:
        if is_asked[0] and event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(os.fsdecode(arguments[0]))

    async with running(tmp_path) as cluster:
        calls = {
            "Search": lambda name: cluster.stub.Search(request(index=name)),
            "GetIndex": lambda name: cluster.stub.GetIndex(search_pb2.GetIndexRequest(index=name)),
            "ReloadIndex": lambda name: cluster.admin.ReloadIndex(
                admin_pb2.ReloadIndexRequest(index=name, version=2)
            ),
        }
        await refusal(calls[method]("no-such"))  # what Python loads at the first refusal
        sys.addaudithook(note)
        try:
            refused = [await refusal(calls[method](name)) for name in NAMES]
        finally:
            is_asked[0] = False
    for name, answer in zip(NAMES, refused, strict=True):
        assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT, name
        assert "is no index name" in answer.details(), name
    watched = str(cluster.topology)  # read again and again, whatever is asked
    assert not [path for path in opened if path != watched]
