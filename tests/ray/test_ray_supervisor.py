"""The supervisor around one real child, without Ray: its directory is a function of the test's."""

import asyncio
import os
import signal
import stat

import pytest
from fakes.ray_head import command_of
from faults.processes import exists

from deploy.plan import IndexFacts
from deploy.ray.options import ray_options
from deploy.ray.registry import Beat, Part, Pin, Told
from deploy.ray.supervisor import Here, Supervisor
from deploy.ray.watch import BEHIND_S, MAX_DEATHS, SILENT_S, START_MARGIN_S, ChildHealth
from shoal.errors import ShoalError, UnavailableError

HERE = Here(replica="r1", node="n", host="127.0.0.1")


class Directory:
    """Answers as the directory; `beats` is what it heard."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.beats: list[Beat] = []

    async def __call__(self, beat: Beat) -> Told:
        self.beats.append(beat)
        return self.told


def supervisor(index, directory, **values):
    facts = IndexFacts(name="axes", version=1, n_shards=2, encoder_model=None)
    part = Part(name="shard-1", role="shard", shard=1)
    options = ray_options({"index": str(index), "grace_s": 1.0, **values})
    return Supervisor(part, options, facts, HERE, directory)


@pytest.fixture
def state_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


async def test_a_supervisor_starts_its_child_restarts_it_and_leaves_nothing(
    axes_index, state_home, tmp_path
):
    """The child is a process of its own, whose files lie in the node's state folder."""
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []\n")
    directory = Directory(Told(pin=Pin(version=1), token="t" * 43))
    owner = supervisor(axes_index, directory, tokens=tokens)
    await owner.start()
    owner.check()
    member = owner.member
    assert exists(member.pid)
    assert member.address.startswith("127.0.0.1:")
    assert (member.phase, member.version) == ("serving", 1)
    (token,) = state_home.rglob("*.token")
    assert token.read_text().strip() == "t" * 43
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert "t" * 43 not in command_of(member.pid)

    os.kill(member.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while owner.member.pid == member.pid or not owner.member.n_restarts:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert owner.member.address == member.address

    await owner.stop()
    assert not exists(owner.member.pid)
    assert directory.beats[-1].member.phase == "leaving"
    assert not list(state_home.rglob("*.token"))
    assert not list(state_home.rglob("*.address.json"))
    with pytest.raises(UnavailableError):
        owner.check()


async def test_a_child_that_cannot_start_ends_the_start(state_home, tmp_path):
    """Serve shows the constructor's error: it must be the child's own last word."""
    owner = supervisor(tmp_path / "nothing", Directory(Told(pin=Pin(version=1))))
    with pytest.raises(ShoalError, match="shard-1"):
        await owner.start()
    await owner.stop()


def test_a_shard_that_missed_a_reload_is_told_by_what_it_has_open():
    """It was started again before the version was pinned, after the routers had it loaded."""
    health = ChildHealth(begun_s=0.0).opened(10.0, has_version=False)
    health = health.opened(25.0, has_version=False)
    assert not health.missed_a_reload(39.9)
    assert health.missed_a_reload(10.0 + BEHIND_S)
    assert not health.opened(39.0, has_version=True).missed_a_reload(60.0)
    # its siblings wait until it has shown the version, and it is not started again every second
    again = health.started_again(40.0)
    assert again.is_behind(41.0)
    assert not again.missed_a_reload(41.0)
    assert not again.opened(50.0, has_version=True).is_behind(50.0)


def test_a_child_is_given_up_after_deaths_in_a_row_or_a_long_silence():
    """One crash a day is mended in place; a crash loop or a hang needs another process or node."""
    health = ChildHealth(begun_s=0.0).served(10.0)
    assert health.fault(10.0 + SILENT_S - 1) == ""
    assert "served nothing for 30 s" in health.fault(10.0 + SILENT_S)
    for number in range(MAX_DEATHS):
        assert health.fault(20.0 + number) == ""
        health = health.died(20.0 + number, steady_s=30.0)
    assert f"ended {MAX_DEATHS} times" in health.fault(26.0)
    rare = ChildHealth(begun_s=0.0)
    for number in range(1, 9):
        rare = rare.died(100.0 * number, steady_s=30.0).served(100.0 * number + 1)
        assert rare.fault(100.0 * number + 2) == ""


def test_a_shard_that_loads_for_minutes_is_given_the_time_again_after_a_crash():
    """Another replica in its place would load as long, and its port and its page cache be lost."""
    health = ChildHealth(begun_s=100.0, start_s=90.0).served(200.0)
    crashed = health.died(201.0, steady_s=30.0)
    assert crashed.fault(201.0 + 90.0) == ""
    enough_s = 2 * 90.0 + START_MARGIN_S
    assert "served nothing" in crashed.fault(201.0 + enough_s)
    # who dies while it loads gets no more time for that, however long each life was
    again = crashed.died(300.0, steady_s=30.0)
    assert "served nothing" in again.fault(201.0 + enough_s)
    # once it serves, a silence is one
    back = again.served(320.0)
    assert back.fault(320.0 + SILENT_S - 1) == ""
    assert "served nothing" in back.fault(320.0 + SILENT_S)
