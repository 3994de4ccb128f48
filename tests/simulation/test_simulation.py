"""The router's own code in simulated time: seeded schedules of trouble, each against an oracle."""

import numpy as np
import pytest
from simulation import oracle
from simulation.many import check, check_all
from simulation.schedule import draw
from simulation.world import Played, play

from router import fanout, search
from router.budget import CallBudget
from router.merge import ShardHits
from router.topology import IndexVersion
from shoal.admission import Gate


@pytest.mark.timeout(1_800)
def test_whatever_befalls_the_cluster_answers_are_true_in_time_and_nothing_leaks(sim_seeds):
    """Delays, deaths, freezes, overloads, lies and reloads: see `oracle` for what must hold."""
    check_all(sim_seeds)


@pytest.mark.parametrize("seed", [4661])
def test_what_a_seed_found_stays_found(seed):
    """4661: a quiet router left its lone call with a replica that had become 300 times slower."""
    check(seed)


def told(played: Played) -> list[object]:
    """All that a schedule led to, as values."""
    answers = [
        (a.begun_s, a.ended_s, a.version, repr(a.error), None if a.response is None else
         a.response.SerializeToString(deterministic=True))
        for a in played.answers
    ]  # fmt: skip
    calls = [process.n_calls for process in played.replicas]
    return [answers, calls, played.extras, [repr(moved) for moved in played.moved]]


def without_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Request ids are random on purpose."""
    monkeypatch.setattr("router.service.current_request_id", lambda: "simulated")


def test_a_seed_replays_to_the_microsecond(monkeypatch):
    """Or a failure could not be looked at twice."""
    without_request_id(monkeypatch)
    for seed in range(10):
        assert told(play(draw(seed))) == told(play(draw(seed)))


def test_schedules_bring_every_kind_of_trouble(monkeypatch):
    """A simulation in which nothing goes wrong would prove nothing."""
    outcomes, errors, extras, moves = set(), set(), {"retries": 0, "hedges": 0}, set()
    for seed in range(120):
        played = play(draw(seed))
        for answered in played.answers:
            errors.add(type(answered.error).__name__)
            if answered.response is not None:
                outcomes |= {shard.outcome for shard in answered.response.shards}
        extras = {name: extras[name] + n for name, n in played.extras.items()}
        moves |= {failure is None for _, failure, _ in played.moved}
    assert outcomes == {1, 2, 3, 4, 5, 6}
    assert errors >= {"NoneType", "InsufficientCoverageError", "DeadlineExceededError",
                      "OverloadedError", "CancelledError"}  # fmt: skip
    assert all(extras.values())
    assert moves == {True, False}


def _says_all_was_searched(monkeypatch):
    monkeypatch.setattr(IndexVersion, "coverage", lambda *_: 1.0)


def _merges_the_worst(monkeypatch):
    def worst(parts, k, **_):
        winners = merge(parts, k)
        return type(winners)(
            **{name: np.flip(getattr(winners, name), 1) for name in
               ("parts", "columns", "ordinals", "scores")}
        )  # fmt: skip

    merge = search.merge_top_k
    monkeypatch.setattr(search, "merge_top_k", worst)


def _waits_beyond_the_deadline(monkeypatch):
    monkeypatch.setattr(fanout, "_patience_s", lambda deadline, **_: deadline.remaining_s() + 1.0)


def _believes_every_reply(monkeypatch):
    monkeypatch.setattr("router.shard_reply._checked_hits", _unchecked)


def _unchecked(reply, settings, n_queries):
    shape = (n_queries, reply.width)
    n = n_queries * reply.width
    column = {"ordinals": "<i8", "segments": "<u4", "rows": "<u4", "scores": "<f4"}
    return ShardHits(
        **{
            name: np.resize(np.frombuffer(getattr(reply, name)[: n * int(kind[2])], kind), shape)
            for name, kind in column.items()
        }
    )


def _never_lets_out(monkeypatch):
    monkeypatch.setattr(Gate, "leave", lambda *_, **__: None)


def _grants_everything(monkeypatch):
    monkeypatch.setattr(CallBudget, "take", lambda *_: True)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_says_all_was_searched, "coverage 1.0 is not"),
        (_merges_the_worst, "hits .* are not"),
        (_waits_beyond_the_deadline, "too late"),
        (_believes_every_reply, "never told the truth|hits .* are not"),
        (_grants_everything, "extra calls, above"),
        (_never_lets_out, "admission holds"),
    ],
)
def test_a_planted_bug_is_found(monkeypatch, plant, found):
    """The oracle can fail, and a few hundred schedules are enough for it to."""
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=found):
        _check_all(range(300))


def _check_all(seeds: range) -> None:
    for seed in seeds:
        oracle.check(play(draw(seed)))
