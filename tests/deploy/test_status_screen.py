"""What `shoal status` shows, from values: no cluster runs here."""

import dataclasses
import json
from io import StringIO

import pytest

from deploy.cli import status as command
from deploy.load import Counters, Looks, ProcessLoad
from deploy.status import ClusterStatus, ProcessStatus, coverage_of
from deploy.status_screen import local_screen
from shoal.internal.v1 import admin_pb2 as pb

LOAD = ProcessLoad(in_flight=3, queued=1, qps=1_234.4, refused_per_s=0, wait_s=0.0, busy=0.5)


def process(name, role, **more):
    values = {
        "pid": 7, "address": "127.0.0.1:5", "health": "SERVING", "n_restarts": 2, "detail": "",
        "versions": (3,), "router_view": "HEALTHY", "log": "/x.log", "load": LOAD, **more,
    }  # fmt: skip
    return ProcessStatus(name=name, role=role, **values)


def report(*processes):
    return ClusterStatus(
        name="c", phase="ready", pid=1, target="127.0.0.1:9", index_dir="/i", index="books",
        version=3, processes=processes, coverage=0.5, http="http://127.0.0.1:8",
    )  # fmt: skip


ROUTER = process("router", "router", router_view="", versions=())


def test_one_screen_says_it_all(capsys):
    """Health, versions, load, coverage, restarts and the router's word, where there is no terminal
    as plain text for grep."""
    sick = process("shard-12b", "shard", router_view="EJECTED", detail="timed out", load=None)
    command.show(local_screen(report(process("encoder", "encoder"), sick, ROUTER)))
    shown = capsys.readouterr().out
    for said in (
        "cluster 'c': ready", "'books' version 3", "127.0.0.1:9", "50.00%", "EJECTED timed out",
        "console: http://127.0.0.1:8/",
        "shard-12b", "1,234 queries/s, 3 in flight",
    ):  # fmt: skip
        assert said in shown
    assert "\x1b" not in shown


def test_the_recall_of_live_queries_stands_above(capsys):
    """The router that measured most speaks; before any has, there is no line of it."""
    measured = [
        dataclasses.replace(
            LOAD, recall=0.97, recall_low=0.95, recall_high=0.9842, n_recalls=1_000
        ),
        dataclasses.replace(LOAD, recall=0.5, recall_low=0.1, recall_high=0.9, n_recalls=3),
    ]
    routers = [process("router", "router", load=load) for load in measured]
    command.show(local_screen(report(*routers)))
    assert "recall: 0.970 (0.950 to 0.984), 1,000 live queries" in capsys.readouterr().out
    command.show(local_screen(report(ROUTER)))
    assert "recall" not in capsys.readouterr().out
    exact = process("router", "router", load=dataclasses.replace(LOAD, is_exact=True))
    command.show(local_screen(report(exact)))
    assert "recall: exact" in capsys.readouterr().out


def test_a_terminal_gets_every_process_drawn():
    """rich draws what the plain tables say, in as many columns as there are."""
    from rich.console import Console

    from deploy.cli.status_drawn import drawn

    out = StringIO()
    lines = [process(f"shard-{i}a", "shard") for i in range(3)]
    Console(file=out, width=140, force_terminal=True, color_system=None).print(
        drawn(local_screen(report(*lines, ROUTER)))
    )
    for said in ("shard-0a", "shard-2a", "SERVING", "1,234", "coverage", "router"):
        assert said in out.getvalue()


def test_a_part_is_what_replicas_are_of():
    """Replicas of a shard belong together, whatever their letters."""
    screen = local_screen(report(process("shard-12-30", "shard"), process("encoder", "encoder")))
    assert [line.part for line in screen.lines] == ["shard 12", "encoder"]


def asking(times, screen):
    left = iter(range(times))

    def ask():
        if next(left, None) is None:
            raise KeyboardInterrupt
        return screen, {"name": "c", "healthy": True}

    return ask


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_ends_on_ctrl_c_without_a_failure(monkeypatch, capsys, as_json):
    """Ctrl-C is how one stops watching: no error, and what was shown stays, look by look."""
    monkeypatch.setattr(command, "EVERY_S", 0.0)
    command._watch(asking(3, local_screen(report(ROUTER))), as_json=as_json)
    shown = capsys.readouterr().out
    if as_json:
        assert [json.loads(line)["name"] for line in shown.splitlines()] == ["c"] * 3
    else:
        assert shown.count("cluster 'c'") == 3


def test_watching_draws_on_a_terminal(monkeypatch):
    """On a terminal the screen is drawn over the one before."""

    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(command, "EVERY_S", 0.0)
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    command._watch(asking(2, local_screen(report(ROUTER))), as_json=False)
    assert "cluster 'c'" in terminal.getvalue()
    assert "\x1b[H" in terminal.getvalue()


def topology(*shards):
    """Shards as (live passages, states of their replicas)."""
    return pb.GetTopologyResponse(
        indexes=[
            pb.IndexTopology(
                index="books",
                shards=[
                    pb.ShardTopology(
                        shard=i, n_live=n_live,
                        replicas=[pb.ShardReplica(state=s, versions=[1]) for s in states],
                    )
                    for i, (n_live, states) in enumerate(shards)
                ],
            )
        ]
    )  # fmt: skip


UP, OUT = pb.REPLICA_STATE_HEALTHY, pb.REPLICA_STATE_EJECTED


@pytest.mark.parametrize(
    ("shards", "coverage"),
    [
        ([(30, [UP, OUT]), (10, [UP])], 1.0),
        ([(30, [UP]), (10, [OUT, OUT])], 0.75),
        ([(30, [OUT]), (10, [OUT])], 0.0),
        ([(0, [UP])], 1.0),
        ([], 0.0),
    ],
)
def test_coverage_is_what_a_search_reaches(shards, coverage):
    """One healthy replica of a shard is enough, and shards count by their live passages."""
    assert coverage_of(topology(*shards), "books") == coverage
    assert coverage_of(topology(*shards), "another") == 0.0


async def test_a_rate_needs_two_looks(monkeypatch):
    """The first look at a page tells no rate; one that went away is begun anew."""
    pages = {"a:1": Counters(at_s=1.0, served=10), "b:1": None}

    async def read(page, timeout_s=1.0):
        return pages[page]

    monkeypatch.setattr("deploy.load.read_counters", read)
    looks = Looks()
    assert looks.first
    assert await looks.loads(["a:1", "b:1", ""]) == {}
    pages["a:1"] = Counters(at_s=2.0, served=15)
    assert {page: load.qps for page, load in (await looks.loads(["a:1", "b:1"])).items()} == {
        "a:1": 5.0
    }
