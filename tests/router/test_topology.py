"""The topology file: every fault is named."""

import json

import pytest

from router.topology import parse_topology
from shoal.errors import ConfigError

GOOD = {
    "format": 1,
    "indexes": [{"name": "books", "version": 3, "shards": [["a:1", "b:1"], ["unix:/run/c"]]}],
    "encoders": ["[::1]:5001"],
}


def test_a_good_file_is_read():
    """Shards by number, replicas in order."""
    topology = parse_topology(json.dumps(GOOD), "t.json")
    assert topology.indexes[0].shards == (("a:1", "b:1"), ("unix:/run/c",))
    assert topology.encoders == ("[::1]:5001",)
    assert parse_topology("{}", "t.json").indexes == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "format"),
        ({"indexs": []}, "indexs"),
        ({"indexes": [{"name": "a/b", "version": 1, "shards": [[]]}]}, "indexes.0.name"),
        ({"indexes": [{"name": "../x", "version": 1, "shards": [[]]}]}, "indexes.0.name"),
        ({"indexes": [{"name": "a", "version": 0, "shards": [[]]}]}, "indexes.0.version"),
        ({"indexes": [{"name": "a", "version": 1, "shards": []}]}, "indexes.0.shards"),
        ({"indexes": [{"name": "a", "version": 1, "shards": [[""]]}]}, "indexes.0.shards.0.0"),
        ({"indexes": [{"name": "a", "version": 1, "shards": [["x y:1"]]}]}, "shards.0.0"),
        ({"indexes": GOOD["indexes"] * 2}, "books is there twice"),
        ({"encoders": ["no-port"]}, "encoders.0"),
        ({"encoders": ["a:1", "a:65536"]}, "encoders.1"),
        ({"encoders": ["a:0"]}, "must be HOST:PORT with a port of 1 to 65535, not 'a:0'"),
    ],
)
def test_faults_are_named(change, named):
    """File and field stand in one line."""
    with pytest.raises(ConfigError) as caught:
        parse_topology(json.dumps(GOOD | change), "t.json")
    assert "t.json" in caught.value.message
    assert named in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_what_is_no_topology_is_refused(text):
    """Half a file is refused as a whole."""
    with pytest.raises(ConfigError, match=r"t\.json"):
        parse_topology(text, "t.json")
