"""What the directory and replicas of another program understand of each other."""

import json

import pytest

from deploy.load import ProcessLoad
from deploy.ray.directory import Directory
from deploy.ray.registry import Beat, Member, Part, Pin, Told
from deploy.ray.wire import beat_of, member_of, pin_of, to_wire, told_of

LOAD = ProcessLoad(in_flight=1, queued=2, qps=3.0, refused_per_s=4.0, wait_s=5.0, busy=6.0)
MEMBER = Member(
    replica="a", part=Part(name="shard-0", role="shard", shard=0), node="n", host="10.0.0.1",
    address="10.0.0.1:5", pid=7, n_restarts=1, phase="serving", version=3, log="/x", load=LOAD,
    behind=True,
)  # fmt: skip
BEAT = Beat(member=MEMBER, pin=Pin(version=3, epoch=2), slots=("10.0.0.1:9",), token="t")
TOLD = Told(routers=("10.0.0.1:9",), pin=Pin(version=3, epoch=2), port=9, slots=("10.0.0.1:9",),
            may_restart=True, token="t")  # fmt: skip


@pytest.mark.parametrize(
    ("value", "read"), [(BEAT, beat_of), (MEMBER, member_of), (TOLD, told_of), (Told(), told_of),
                        (Beat(member=MEMBER), beat_of), (Pin(version=3, epoch=1), pin_of)],
)  # fmt: skip
def test_what_is_written_is_read(value, read):
    """Nothing is lost, and nothing of it is a class of ours."""
    wire = to_wire(value)
    assert read(wire) == value
    json.dumps(wire)


async def test_a_directory_hears_the_program_before_and_the_one_after():
    """While a program is rolled in, a heartbeat that can't be read is a replica that is gone."""
    before = to_wire(BEAT)
    del before["slots"]
    before["member"] = {k: v for k, v in before["member"].items() if k not in {"load", "behind"}}
    after = {**to_wire(BEAT), "news": 1}
    after["member"] = {
        **after["member"], "replica": "b", "more": {}, "part": {**after["member"]["part"], "x": 1},
        "load": {"in_flight": 1, "other": 2},
    }  # fmt: skip
    directory = Directory(version=1, closed=False)
    for beat in (before, after):
        told_of({**await directory.heartbeat(beat), "news": 1})
    told = [member_of(member) for member in await directory.members()]
    assert [(m.replica, m.load, m.behind) for m in told] == [("a", None, False), ("b", None, True)]
    assert told_of({}) == Told()
