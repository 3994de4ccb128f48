"""What a supervisor tells Serve of its child."""

from dataclasses import fields
from functools import partial

from deploy.load import ProcessLoad, read_counters
from deploy.ray import load
from deploy.ray.load import ChildLoad, load_told
from deploy.ray.scaling import Load
from shoal.rpc import metrics

LOAD = ProcessLoad(in_flight=4, queued=2, qps=10, refused_per_s=3, wait_s=0.1, busy=0.7)


def test_a_routers_refusals_are_its_shards():
    """Routers refuse when encoders or shards are full: more routers would refuse as much."""
    assert load_told("router", LOAD, 0.0).refused_per_s == 0
    assert load_told("encoder", LOAD, 0.0).refused_per_s == 3


def test_a_hung_child_waits_ever_longer():
    """Nothing leaves its queue, so nothing measures a wait: the silence is one."""
    assert load_told("encoder", LOAD, 8.0).wait_s == 8.0


async def test_numbers_come_with_the_second_look(monkeypatch):
    """Serve takes a dict of numbers with `Load`'s names; {} adds nothing."""
    monkeypatch.setattr(load, "read_counters", partial(read_counters, timeout_s=60.0))
    page = f"127.0.0.1:{metrics.start_metrics_page('127.0.0.1', 0)}"
    child = ChildLoad("encoder")
    assert await child.record("") == {}
    assert await child.record(page) == {}
    metrics.QUERIES.inc(5)
    told = await child.record(page)
    assert told.keys() == {field.name for field in fields(Load)}
    assert told["served_per_s"] > 0
    assert all(type(value) is float for value in told.values())
    assert child.last is not None
    assert await child.record("127.0.0.1:1") == {}
    assert child.last is None
