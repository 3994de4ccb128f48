"""The directory's table: what it knows, from whom, and what it tells whom."""

from dataclasses import replace

from deploy.ray.registry import (
    GATHER_S,
    LEASE_S,
    Beat,
    Member,
    Part,
    Pin,
    Roster,
)

ROUTER = Part(name="router", role="router")
SHARD = Part(name="shard-0", role="shard", shard=0)


def member(replica, part=SHARD, address="", host="10.0.0.1", phase="serving"):
    return Member(
        replica=replica, part=part, node="n", host=host, address=address, phase=phase
    )  # fmt: skip


def fresh(version=1, token=""):
    return Roster(begun_s=0.0, first=Pin(version=version), own_token=token)


def test_nothing_is_told_before_all_that_live_can_have_been_heard():
    """A directory that was just started would otherwise pin what it was built with."""
    roster = fresh().hear(Beat(member=member("a")), 0.1).settle(0.1)
    assert roster.answer(0.1, "a").pin is None
    settled = roster.settle(GATHER_S)
    assert settled.answer(GATHER_S, "a").pin == Pin(version=1, epoch=0)


def test_a_directory_that_is_started_again_learns_the_pin_and_the_token_from_heartbeats():
    """Its death loses nothing: the highest epoch that was told wins, and so does the token."""
    roster = fresh(version=1, token="new")
    roster = roster.hear(Beat(member=member("a"), pin=Pin(version=2, epoch=3), token="old"), 0.2)
    roster = roster.hear(Beat(member=member("b"), pin=Pin(version=1, epoch=0), token="old"), 0.3)
    told = roster.settle(GATHER_S).answer(GATHER_S, "a")
    assert (told.pin, told.token) == (Pin(version=2, epoch=3), "old")


def test_a_program_that_rolls_keeps_the_version_that_runs():
    """A builder that runs again reads a newer live version; only a reload moves the cluster."""
    roster = fresh(version=9).hear(Beat(member=member("a"), pin=Pin(version=4)), 0.1)
    assert roster.settle(GATHER_S).answer(GATHER_S, "a").pin == Pin(version=4)


def test_a_reload_has_the_next_epoch_and_older_heartbeats_do_not_undo_it():
    """A replica whose last answer was lost still says the old version."""
    roster = fresh(version=1).settle(GATHER_S).repin(2)
    assert roster.pin == Pin(version=2, epoch=1)
    late = roster.hear(Beat(member=member("a"), pin=Pin(version=1, epoch=0)), 5.0)
    assert late.answer(5.0, "a").pin == Pin(version=2, epoch=1)


def test_replicas_that_missed_a_reload_are_started_again_one_after_the_other():
    """All of a shard at once would leave nobody to ask; another shard's needn't wait."""
    others = Part(name="shard-1", role="shard", shard=1)
    roster = fresh()
    for name, part in (("a", SHARD), ("b", SHARD), ("c", others)):
        roster = roster.hear(Beat(member=replace(member(name, part), behind=True)), 2.0)
    roster = roster.hear(Beat(member=member("d")), 2.0)
    assert {r for r in "abcd" if roster.answer(2.0, r).may_restart} == {"a", "c"}
    caught_up = roster.hear(Beat(member=member("a")), 2.1)
    assert {r for r in "abcd" if caught_up.answer(2.1, r).may_restart} == {"b", "c"}
    # one that died while it was started again keeps nobody waiting for longer than its lease
    roster = roster.hear(Beat(member=replace(member("b"), behind=True)), 4.0)
    assert not roster.answer(4.0, "b").may_restart
    assert roster.answer(2.0 + LEASE_S, "b").may_restart


def test_an_open_cluster_takes_no_token_from_a_heartbeat():
    """The token of a cluster that was closed once must not close this one."""
    roster = fresh(token="").hear(Beat(member=member("a"), token="left over"), 0.1)
    assert roster.settle(GATHER_S).answer(GATHER_S, "a").token == ""


def test_who_is_silent_for_a_lease_is_gone_and_who_leaves_is_gone_at_once():
    """Routers are told of by address, so that supervisors don't announce to the dead."""
    roster = fresh()
    roster = roster.hear(Beat(member=member("a", ROUTER, "10.0.0.1:1")), 2.0)
    roster = roster.hear(Beat(member=member("b", ROUTER, "10.0.0.1:2")), 3.0)
    assert roster.answer(3.0).routers == ("10.0.0.1:1", "10.0.0.1:2")
    assert roster.answer(2.0 + LEASE_S).routers == ("10.0.0.1:2",)
    left = roster.hear(Beat(member=member("b", ROUTER, "10.0.0.1:2", phase="leaving")), 3.5)
    assert left.answer(3.5).routers == ("10.0.0.1:1",)


def test_a_router_takes_the_port_of_the_one_that_left_its_host():
    """A client's list of addresses stays true while routers are replaced, one by one."""
    roster = fresh()
    for replica, port in (("a", 1), ("b", 2)):
        roster = roster.hear(Beat(member=member(replica, ROUTER, f"10.0.0.1:{port}")), 2.0)
    roster = roster.hear(
        Beat(member=member("a", ROUTER, "10.0.0.1:1", phase="leaving")), 2.5
    )  # fmt: skip
    elsewhere = member("c", ROUTER, host="10.0.0.2", phase="starting")
    here = member("d", ROUTER, phase="starting")
    roster = roster.hear(Beat(member=elsewhere), 2.6).hear(Beat(member=here), 2.7)
    assert roster.answer(2.7, "c").port == 0
    assert roster.answer(2.7, "d").port == 1
    third = member("e", ROUTER, phase="starting")
    roster = roster.hear(Beat(member=member("b", ROUTER, "10.0.0.1:2")), 2.8)
    assert roster.hear(Beat(member=third), 2.9).answer(2.9, "e").port == 0


def test_a_killed_routers_port_is_free_before_its_lease_ends():
    """It says no goodbye, and its successor starts within the lease."""
    roster = fresh().hear(Beat(member=member("a", ROUTER, "10.0.0.1:1")), 2.0)
    soon = roster.hear(Beat(member=member("d", ROUTER, phase="starting")), 4.0)
    assert soon.answer(4.0, "d").port == 1


def test_a_new_directory_knows_the_ports_of_routers_that_left_with_the_old_one():
    """A new program replaces the directory and a router at the same time."""
    roster = fresh().hear(Beat(member=member("a", ROUTER, "10.0.0.1:1")), 2.0)
    told = roster.settle(2.0).answer(2.0, "x")
    after = fresh().hear(Beat(member=member("x"), slots=told.slots), 0.5)
    after = after.hear(Beat(member=member("d", ROUTER, phase="starting")), 0.6).settle(2.0)
    assert after.answer(2.0, "d").port == 1


def test_two_routers_that_start_take_two_ports():
    """One that was given to a router is not given to another, though nobody listens there yet."""
    roster = fresh().hear(Beat(member=member("x"), slots=("10.0.0.1:1", "10.0.0.1:2")), 2.0)
    for replica in ("d", "e", "d"):
        roster = roster.hear(Beat(member=member(replica, ROUTER, phase="starting")), 2.5)
    assert {roster.answer(2.5, r).port for r in ("d", "e")} == {1, 2}


def test_no_text_of_a_value_shows_the_token():
    """Values are logged and shown by Ray; the token must not be."""
    beat = Beat(member=member("a"), pin=Pin(version=1), token="secret")
    roster = fresh(token="secret").hear(beat, 0.1).settle(GATHER_S)
    assert "secret" not in repr((beat, roster, roster.answer(GATHER_S, "a")))
