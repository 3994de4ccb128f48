"""Every message of every service, from its descriptor, to a real door: answered or refused."""

import logging

import pytest
from fuzz.messages import disturbed
from fuzz.rpcs import RPCS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from router import served
from shoal.internal.v1 import admin_pb2, shard_pb2
from shoal.rpc.deadline import Deadline
from shoal.v1 import encoder_pb2, search_pb2

pytestmark = pytest.mark.timeout(3_600)


def test_every_rpc_is_fuzzed():
    """A new RPC, or one that is renamed, must say what it promises before it is served."""
    files = (search_pb2, encoder_pb2, shard_pb2, admin_pb2)
    served = {
        (service.full_name, method.name)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {(rpc.service, rpc.name) for rpc in RPCS} == served


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_a_good_request_is_answered(rpc, doors):
    """What the mutations begin from is good, or they would all be refused for one reason."""
    doors.codes.clear()
    for request in rpc.valid:
        doors.ask(rpc, request.SerializeToString())
    doors.mend(rpc)
    assert doors.codes["OK"] + doors.codes["item OK"] > 0, doors.codes


def test_a_broken_door_is_seen(doors, monkeypatch):
    """The judge itself: an INTERNAL, a wrong answer, a traceback and growth are each an error."""
    rpc = next(rpc for rpc in RPCS if rpc.name == "GetIndex")
    good = rpc.valid[0].SerializeToString()

    def failing(index):
        raise RuntimeError

    def noisy(index):
        logging.getLogger("router").error("something went wrong")
        return served.describe(index)

    def lying(index, told):
        return search_pb2.Index(name="films", coverage=1.0)

    for place, broken, seen in (("service.describe", failing, "INTERNAL"),
                                ("service.describe", noisy, "something went wrong"),
                                ("reply.to_index", lying, "GetIndex")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"router.{place}", broken)
            with pytest.raises(AssertionError, match=seen):
                doors.ask(rpc, good)
    doors.ask(rpc, good)
    kept = []
    with pytest.raises(AssertionError, match="Deadline"), doors.nothing_grows(within_s=0.0):
        kept += [Deadline(i) for i in range(1_000)]


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_any_message_is_answered_or_refused(rpc, doors, fuzz):
    """Only the promised codes, a sound answer, no traceback, no hang, and nothing is left of it."""
    requests = disturbed(rpc.valid)
    items = st.lists(requests, min_size=1, max_size=3) if rpc.streams else st.tuples(requests)

    @settings(max_examples=fuzz.n_examples, database=None, suppress_health_check=list(HealthCheck))
    @seed(fuzz.seed)
    @given(items)
    def is_answered(messages):
        doors.ask(rpc, *(message.SerializeToString() for message in messages))

    doors.codes.clear()
    for request in rpc.valid:
        doors.ask(rpc, request.SerializeToString())  # so that what is made once has been made
    with doors.nothing_grows():
        is_answered()
        doors.mend(rpc)
    print(f"{rpc.name}: {dict(doors.codes)}", flush=True)
