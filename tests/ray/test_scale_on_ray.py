"""`shoal scale` and `shoal status` against a real Ray cluster."""

import json

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end]


def children(status):
    """Pids of the children by deployment."""
    found = {}
    for replica in status["replicas"]:
        found.setdefault(replica["deployment"], set()).add(replica["pid"])
    return found


@pytest.mark.timeout(300)
def test_replicas_come_and_go_and_those_that_stay_are_not_restarted(on_ray, axes_index):
    """Grown, shown, refused for want of room, shrunk: by pids, nobody who stays is touched.

    `up` given again, for the same program, changes nothing of it.
    """

    def status():
        told = on_ray("status", "--json")
        return json.loads(told.stdout)

    up = on_ray("up", "--on", "ray", "--index", str(axes_index))
    assert up.returncode == 0, up.stderr
    before = children(status())
    assert {name: len(pids) for name, pids in before.items()} == {
        "shard-0": 1, "shard-1": 1, "router": 1
    }  # fmt: skip

    grown = on_ray("scale", "shard=2", "router=1..3", "--json")
    assert grown.returncode == 0, grown.stderr
    told = {part["name"]: part for part in json.loads(grown.stdout)["deployments"]}
    assert (told["shard-1"]["before"], told["shard-1"]["now"]) == (1, 2)
    assert (told["router"]["now"], told["router"]["most"]) == (1, 3)
    now = status()
    assert {name: len(pids) for name, pids in children(now).items()} == {
        "shard-0": 2, "shard-1": 2, "router": 1
    }  # fmt: skip
    assert all(before[name] <= children(now)[name] for name in before)

    assert now["coverage"] == 1.0
    assert [node["n_replicas"] for node in now["nodes"]] == [5]
    assert now["nodes"][0]["resources"]["CPU"] == 16
    plain = on_ray("status").stdout
    assert "5 of 16" in plain
    assert plain.count("SERVING") == 5

    for arguments, code, said in [
        (["shard=400"], 78, "shard-0: room for"),
        (["encoder=2"], 66, "no encoder"),
        (["shard=0"], 64, "at least"),
    ]:
        refused = on_ray("scale", *arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (code, 1)
        assert said in refused.stderr
    assert children(status()) == children(now)

    again = on_ray("up", "--on", "ray", "--index", str(axes_index))
    assert again.returncode == 0, again.stderr
    assert children(status()) == children(now)

    shrunk = on_ray("scale", "shard=1")
    assert shrunk.returncode == 0, shrunk.stderr
    last = children(status())
    assert {name: len(pids) for name, pids in last.items()} == {
        "shard-0": 1, "shard-1": 1, "router": 1
    }  # fmt: skip
    assert all(last[name] <= children(now)[name] for name in last)
