"""Leases: who is believed, for how long, and what no silence takes away. Time is a number here."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import leases
from router.leases import LeaseTable
from router.roles import Announcement, EncoderRole, ShardRole
from shoal.errors import ConfigError, FailedPreconditionError

LOOK_S = 0.1
A, B, C, D = (f"10.0.0.{i}:5001" for i in range(1, 5))


def shard(address: str, shard: int = 0, *, n_shards: int = 1, version: int = 1,
          index: str = "books", lease_s: float = 3.0) -> Announcement:  # fmt: skip
    role = ShardRole(index=index, shard=shard, n_shards=n_shards, version=version)
    return Announcement(address=address, role=role, lease_s=lease_s)


def encoder(address: str, tower: str = "a") -> Announcement:
    return Announcement(address=address, role=EncoderRole(question_fingerprint=tower), lease_s=3.0)


class Clocked:
    """A table, and the time that has passed; announcements are renewed every second."""

    def __init__(self) -> None:
        self.table = LeaseTable()
        self.now_s = 1_000.0

    def hear(self, *told: Announcement) -> "Clocked":
        for announcement in told:
            self.table = self.table.announced(announcement, self.now_s)
        return self

    def leave(self, address: str) -> "Clocked":
        self.table = self.table.left(address, self.now_s)
        return self

    def listen(self, seconds: float, *renewing: Announcement) -> "Clocked":
        """Looks ten times a second; who renews does so every second."""
        for i in range(1, round(seconds / LOOK_S) + 1):
            self.now_s += LOOK_S
            self.table = self.table.at(self.now_s)
            if i % 10 == 0:
                self.hear(*renewing)
        return self

    def stall(self, seconds: float) -> "Clocked":
        self.now_s += seconds
        return self

    @property
    def shards(self) -> tuple[tuple[str, ...], ...]:
        (index,) = self.table.topology().indexes
        return index.shards

    @property
    def version(self) -> int:
        (index,) = self.table.topology().indexes
        return index.version


def test_who_is_silent_goes_where_a_sibling_is_heard():
    """The end of one lease of two: gone a second after it at most, and not before it."""
    clocked = Clocked().hear(shard(A), shard(B)).listen(2.8, shard(A))
    assert clocked.shards == ((A, B),)
    assert clocked.listen(1.3, shard(A)).shards == ((A,),)


def test_a_topology_freezes_where_nobody_is_heard():
    """Announcements that all end together are broken announcements."""
    clocked = Clocked().hear(shard(A), shard(B), encoder(C)).listen(600.0)
    assert clocked.shards == ((A, B),)
    assert clocked.table.topology().encoders == (C,)
    assert clocked.table.n_overdue == 3


def test_the_first_to_be_heard_after_a_silence_sends_nobody_away():
    """Everybody gets a whole lease to be heard again; who is silent for longer goes."""
    clocked = Clocked().hear(shard(A), shard(B), shard(C)).listen(60.0)
    clocked.hear(shard(A)).listen(0.9)
    assert clocked.hear(shard(B)).shards == ((A, B, C),)
    assert clocked.listen(1.5, shard(A), shard(B)).shards == ((A, B, C),)
    assert clocked.listen(3.0, shard(A), shard(B)).shards == ((A, B),)


def test_another_shards_replica_is_no_reason_to_ask_nobody():
    """The last of a shard is kept, however loudly others are heard; health checks judge it."""
    clocked = Clocked().hear(shard(A, 0, n_shards=2), shard(B, 1, n_shards=2))
    assert clocked.listen(60.0, shard(A, 0, n_shards=2)).shards == ((A,), (B,))
    # one that takes its place is a reason
    clocked.listen(6.0, shard(A, 0, n_shards=2), shard(C, 1, n_shards=2))
    assert clocked.shards == ((A,), (C,))


def test_the_last_encoder_of_a_tower_is_kept():
    """An encoder of another model can't encode for it."""
    clocked = Clocked().hear(encoder(A, "old"), encoder(B, "new")).listen(60.0, encoder(B, "new"))
    assert clocked.table.topology().encoders == (A, B)


def test_a_stall_of_this_router_ends_no_lease():
    """5 s stopped: whoever is heard first afterwards proves nothing against the others."""
    clocked = Clocked().hear(shard(A), shard(B)).listen(2.0, shard(A), shard(B)).stall(5.0)
    assert clocked.hear(shard(A)).shards == ((A, B),)
    assert clocked.listen(0.9).hear(shard(B)).shards == ((A, B),)
    assert clocked.table.n_overdue == 0


def test_a_router_that_is_always_late_believes_for_longer():
    """Looks that come every 5 s count as half a second each: slow is never wrong."""
    clocked = Clocked().hear(shard(A), shard(B))
    for _ in range(4):
        clocked.stall(5.0).hear(shard(A))
    assert clocked.shards == ((A, B),)


def test_leaving_takes_effect_at_once():
    """The last of a shard too, for it says so itself; a second goodbye is none."""
    clocked = Clocked().hear(shard(A), encoder(B)).leave(A).leave(A).leave(B)
    assert clocked.shards == ((),)
    assert clocked.table.topology().encoders == ()
    assert clocked.hear(shard(A)).shards == ((A,),)


def test_an_address_serves_what_it_said_last():
    """A port that was given to another process: it is not asked for what it no longer serves."""
    clocked = Clocked().hear(shard(A, 0, n_shards=2), shard(B, 1, n_shards=2))
    clocked.hear(shard(A, 1, n_shards=2))
    assert clocked.shards == ((), (A, B))
    clocked.hear(encoder(A))
    assert clocked.shards == ((), (B,))
    assert clocked.table.topology().encoders == (A,)


def test_the_first_version_is_pinned():
    """Later ones change nothing but what is agreed; a move does."""
    clocked = Clocked().hear(shard(A, version=3), shard(B, version=4))
    assert clocked.version == 3
    assert clocked.table.agreed_version("books") is None
    clocked.hear(shard(A, version=4))
    assert (clocked.version, clocked.table.agreed_version("books")) == (3, 4)
    clocked.table = clocked.table.moved("books", 3, 4)
    assert clocked.version == 4
    assert clocked.hear(shard(C, version=3)).version == 4
    with pytest.raises(ConfigError, match="version 3"):
        clocked.table.moved("books", 3, 5)


def test_announcements_that_a_reload_outran_are_no_agreement():
    """They say the old version until they know of the move; after that, they mean what they say."""
    clocked = Clocked().hear(shard(A, version=1), shard(B, version=1))
    clocked.table = clocked.table.moved("books", 1, 2)
    clocked.table = clocked.hear(shard(A, version=1)).table.moved("books", 2, 3)
    assert clocked.hear(shard(B, version=1)).table.agreed_version("books") is None
    clocked.hear(shard(A, version=3), shard(B, version=3))
    assert clocked.table.agreed_version("books") == 3
    clocked.hear(shard(A, version=1), shard(B, version=1))
    assert clocked.table.agreed_version("books") == 1


def test_what_all_still_say_half_a_minute_after_a_move_is_meant():
    """The move was not brought to its end, and this router is alone: it must find its way back."""
    said = [shard(A, version=1), shard(B, version=1)]
    clocked = Clocked().hear(*said)
    clocked.table = clocked.table.moved("books", 1, 2)
    assert clocked.listen(29.0, *said).table.agreed_version("books") is None
    assert clocked.listen(2.0, *said).table.agreed_version("books") == 1


def test_an_index_that_was_killed_is_forgotten():
    """Nobody of it was heard for ten minutes in which others were: no health check brings it back,
    and it would be in the way of requests that name no index.
    """
    killed = [shard(A, 0, n_shards=2), shard(B, 1, n_shards=2), encoder(C, "old")]
    alive = [shard(D, index="films")]
    clocked = Clocked().hear(*killed, *alive).listen(590.0, *alive)
    assert len(clocked.table.leases) == 4
    clocked.listen(15.0, *alive)
    assert [index.name for index in clocked.table.topology().indexes] == ["films"]
    assert clocked.table.topology().encoders == ()
    # where nobody at all is heard, that says nothing of anybody
    assert len(Clocked().hear(*killed, *alive).listen(1_200.0).table.leases) == 4


def test_an_index_of_which_one_shard_is_heard_is_kept():
    """Its other shards are dead or can't reach the directory; checks tell which."""
    clocked = Clocked().hear(shard(A, 0, n_shards=2), shard(B, 1, n_shards=2))
    assert clocked.listen(700.0, shard(A, 0, n_shards=2)).shards == ((A,), (B,))


def test_leases_that_ended_agree_to_nothing():
    """What a frozen topology last heard is no vote; those who are heard decide."""
    clocked = Clocked().hear(shard(A, version=1), shard(B, 0, version=2)).listen(3.5)
    assert clocked.table.agreed_version("books") is None
    assert clocked.hear(shard(B, 0, version=2)).table.agreed_version("books") == 2


def test_another_number_of_shards_is_refused_while_the_index_is_served():
    """Half of an index cut in two and half of one cut in three are no index."""
    clocked = Clocked().hear(shard(A, 0, n_shards=2))
    before = clocked.table
    with pytest.raises(FailedPreconditionError, match="2 shards here, not 3"):
        clocked.hear(shard(B, 0, n_shards=3))
    assert clocked.table is before
    assert clocked.listen(31.0).hear(shard(B, 0, n_shards=3)).shards == ((B,), (), ())
    assert clocked.leave(B).hear(shard(A)).shards == ((A,),)


def test_an_index_that_everybody_left_is_forgotten():
    """Not at once: its next replicas may be on their way, and nobody may hear that it is none."""
    clocked = Clocked().hear(shard(A)).leave(A).listen(29.0)
    assert clocked.shards == ((),)
    assert not clocked.listen(2.0).table.topology().indexes


def test_what_is_served_is_known_two_seconds_after_the_first_word():
    """A router that has heard of no shard knows nothing, however long it has listened."""
    clocked = Clocked().listen(60.0)
    assert clocked.table.is_learning
    assert clocked.hear(encoder(A)).listen(60.0).table.is_learning  # its shards still load
    assert clocked.hear(shard(B)).listen(1.8).table.is_learning
    assert not clocked.listen(0.4).table.is_learning


def test_the_table_is_bounded():
    """A broken announcer can't fill the memory; those who are known renew on."""
    clocked = Clocked()
    for i in range(leases.MAX_INDEXES):
        clocked.hear(shard(f"a:{i + 1}", index=f"index-{i}"))
    with pytest.raises(FailedPreconditionError, match="64 indexes"):
        clocked.hear(shard("b:1", index="more"))
    for i in range(leases.MAX_LEASES - leases.MAX_INDEXES):
        clocked.hear(encoder(f"c:{i + 1}"))
    with pytest.raises(FailedPreconditionError, match="1024 replicas"):
        clocked.hear(encoder("d:1"))
    clocked.hear(encoder("c:1"))
    assert len(clocked.table.leases) == leases.MAX_LEASES


ADDRESSES = (A, B, C, D)
ROLES = st.one_of(
    st.builds(ShardRole, index=st.sampled_from(["books", "films"]), shard=st.integers(0, 1),
              n_shards=st.just(2), version=st.integers(1, 2)),
    st.builds(EncoderRole, question_fingerprint=st.sampled_from(["a", "b"])),
)  # fmt: skip
EVENTS = st.one_of(
    st.tuples(st.just("hear"), st.sampled_from(ADDRESSES), ROLES),
    st.tuples(st.just("renew"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("leave"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("listen"), st.sampled_from([0.1, 0.4, 1.0, 2.9, 3.1, 10.0])),
    st.tuples(st.just("stall"), st.sampled_from([0.6, 5.0, 100.0])),
)


def _places(table: LeaseTable) -> set[object]:
    return {lease.role.place for lease in table.leases.values()}


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_silence_takes_no_place_away_and_nobody_who_was_heard_in_time(events):
    """Whatever happens in whatever order: only time that was listened ends a lease, only with a
    live sibling, and the topology names exactly who holds one.
    """
    clocked, heard_s, listened_s = Clocked(), {}, 0.0
    for kind, *rest in events:
        before = clocked.table
        if kind in {"hear", "renew"}:
            address = rest[0]
            if kind == "renew" and address not in before.leases:
                continue
            role = rest[1] if kind == "hear" else before.leases[address].role
            clocked.hear(Announcement(address=address, role=role, lease_s=3.0))
            heard_s[address] = listened_s
            assert clocked.table.leases[address].role == role
        elif kind == "leave":
            clocked.leave(rest[0])
            assert rest[0] not in clocked.table.leases
            heard_s.pop(rest[0], None)
        elif kind == "stall":
            clocked.stall(rest[0])
            listened_s += 0.5
        else:
            clocked.listen(rest[0])
            listened_s += rest[0]
            assert _places(clocked.table) == _places(before)
            assert {name: (p.version, p.n_shards) for name, p in clocked.table.pins.items()} == {
                name: (p.version, p.n_shards) for name, p in before.pins.items()
                if name in clocked.table.pins
            }  # fmt: skip
        for address, at_s in heard_s.items():
            if listened_s - at_s < 3.0:
                assert address in clocked.table.leases
        topology = clocked.table.topology()
        named = [a for index in topology.indexes for shard in index.shards for a in shard]
        assert sorted([*named, *topology.encoders]) == sorted(clocked.table.leases)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.sampled_from(ADDRESSES), min_size=1), st.floats(0.0, 30.0))
def test_a_table_comes_to_those_who_are_heard(heard, silence_s):
    """Whatever was lost before: of one shard's replicas, those that renew remain, no others."""
    clocked = Clocked().hear(*(shard(address) for address in ADDRESSES)).listen(silence_s)
    clocked.listen(8.0, *(shard(address) for address in heard))
    assert clocked.shards == (tuple(sorted(heard)),)


def test_renewals_change_no_topology():
    """What is announced again costs a router's registry nothing."""
    clocked = Clocked().hear(shard(A), encoder(B))
    before = clocked.table.n_changes
    clocked.listen(5.0, shard(A), encoder(B))
    assert clocked.table.n_changes == before
    assert replace(clocked.table, leases={}).topology().encoders == ()
