"""Bytes that no serializer makes, through a raw channel to real doors."""

import random
import resource
from pathlib import Path

import pytest
from fuzz.rpcs import RPCS
from fuzz.wire import fields_of, joined, mutate, varint

pytestmark = pytest.mark.timeout(3_600)

_TOGETHER = 8
_MIB = 1 << 20


def test_taking_apart_and_joining_is_the_same_bytes():
    """What the mutations leave alone stays as a serializer wrote it."""
    for rpc in RPCS:
        for request in rpc.valid:
            data = request.SerializeToString()
            assert joined(fields_of(data)) == data
    assert varint(300) == b"\xac\x02"
    assert varint(1, spare=2) == b"\x81\x80\x00"


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_any_bytes_are_answered_or_refused(rpc, doors, fuzz):
    """Flipped, cut and foreign bytes, wrong types and lengths: as any message; memory stays."""
    chance = random.Random(f"{rpc.name} {fuzz.seed}")
    valid = [request.SerializeToString() for request in rpc.valid]
    doors.codes.clear()

    def round_of_calls() -> None:
        calls = []
        for _ in range(_TOGETHER):
            sent = [mutate(chance.choice(valid), chance)]
            if rpc.streams and chance.random() < 0.5:
                sent.insert(chance.randrange(2), chance.choice(valid))
            calls.append(sent)
        doors.ask_together(rpc, calls)

    for _ in range(2):
        round_of_calls()
    begun_bytes = _rss_bytes()
    with doors.nothing_grows():
        for _ in range(fuzz.n_examples // _TOGETHER):
            round_of_calls()
        doors.mend(rpc)
    grown_bytes = _rss_bytes() - begun_bytes
    print(f"{rpc.name}: {dict(doors.codes)}, {grown_bytes / _MIB:.1f} MiB more", flush=True)
    assert grown_bytes < 64 * _MIB
    for request in valid:
        doors.ask(rpc, request)  # and the door still opens


def _rss_bytes() -> int:
    n_pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(n_pages) * resource.getpagesize()
