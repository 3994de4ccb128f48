"""Two runs side by side: which figures are worse, and which runs can't be compared."""

import dataclasses
import json

import pytest

from shoal.bench.compare import ratios_of
from shoal.bench.drive import Call
from shoal.bench.plan import LoadPlan
from shoal.bench.record import MaxRate, RunRecord, read_record
from shoal.bench.report import summarize
from shoal.bench.schedule import Stage
from shoal.bench.tally import Recall, Tally
from shoal.bench.target import Reply, Served
from shoal.errors import CorpusError, InvalidArgumentError


def report(*, clients=4, ms=10.0, n_failed=0, recall=0.95):
    stage = Stage(clients=clients, warmup_s=0.0, duration_s=1.0)
    tally = Tally(stage, ("queue", "search"))
    for i in range(100):
        at_s, code = i / 100, "UNAVAILABLE" if i < n_failed else "OK"
        reply = Reply(code=code, coverage=1.0, stages_ms=(1.0, 2.0))
        tally.record(Call(number=i, due_s=at_s, sent_s=at_s, done_s=at_s + ms / 1e3, reply=reply))
    tally.recall = {0: Recall(1, recall), 1: Recall(2, 2 * recall)}
    return summarize(tally, LoadPlan(target="x:1", clients=clients))


def record(*reports, **more):
    return RunRecord(
        target="x:1", adapter="grpc", queries="made up", served=Served(index="i", version=1),
        reports=reports or (report(),), circumstances={"seed": 3, "machine": {"cores": 2}}, **more,
    )  # fmt: skip


def worse(first, second, threshold=0.1):
    return {ratio.figure for ratio in ratios_of(first, second, threshold) if ratio.worse}


def test_a_run_is_as_good_as_itself():
    """No figure is worse, every ratio is 1."""
    ratios = ratios_of(record(), record(), 0.0)
    assert {ratio.ratio for ratio in ratios} <= {1.0, None}
    assert not any(ratio.worse for ratio in ratios)


def test_what_became_slower_is_worse_past_the_threshold():
    """12 ms for 10: past 10 %, within 25 %; and the other way round it is better."""
    slow = record(report(ms=12.0))
    assert {"p50 ms", "p90 ms", "p99 ms"} <= worse(record(), slow)
    assert worse(record(), slow, 0.25) == set()
    assert worse(slow, record()) == set()


def test_failures_and_recall_have_steps_of_their_own():
    """One failure more in a hundred is worse though it has no ratio; so is a point of recall."""
    assert "failed share" in worse(record(), record(report(n_failed=1)))
    assert "recall" in worse(record(), record(report(recall=0.94)))
    assert "recall" not in worse(record(), record(report(recall=0.948)))


def test_only_loads_in_common_are_compared():
    """Sixteen clients stand beside sixteen; runs without a load in common are no comparison."""
    steps = record(report(clients=4), report(clients=16))
    ratios = ratios_of(steps, record(report(clients=16)), 0.1)
    assert {ratio.stage for ratio in ratios} == {"16 clients"}
    with pytest.raises(InvalidArgumentError, match="no load in common"):
        ratios_of(record(report(clients=4)), record(report(clients=16)), 0.1)


def test_two_searches_are_compared_by_what_they_found():
    """The highest rate is the answer; their trials beyond it are a server that gives out. None met
    the goal is 0, and other goals are another question.
    """

    def search(calls_per_s, p99_ms=50.0):
        found = MaxRate(p99_ms=p99_ms, recall=0.9, calls_per_s=calls_per_s, why="", trials=())
        return record(report(ms=10.0 if calls_per_s else 900.0), max_rate=found)

    (ratio,) = ratios_of(search(100.0), search(85.0), 0.1)
    assert (ratio.figure, ratio.stage) == ("highest rate", "p99 50 ms, recall 0.9")
    assert (ratio.ratio, ratio.worse) == (0.85, True)
    assert worse(search(100.0), search(95.0)) == worse(search(85.0), search(100.0)) == set()
    assert worse(search(100.0), search(None)) == {"highest rate"}
    assert ratios_of(search(None), search(100.0), 0.1)[0].ratio is None
    with pytest.raises(InvalidArgumentError, match="different goals"):
        ratios_of(search(100.0), search(100.0, p99_ms=60.0), 0.1)


def test_a_run_that_measured_its_generator_is_not_compared():
    """Its figures say nothing about a server."""
    sound = report()
    lagging = dataclasses.replace(
        sound, generator=dataclasses.replace(sound.generator, fault="the generator was late")
    )
    with pytest.raises(InvalidArgumentError, match="second run measures nothing"):
        ratios_of(record(), record(lagging), 0.1)


@pytest.mark.parametrize("n_stages", [1, 3])
def test_a_run_survives_its_file(tmp_path, n_stages):
    """What --json writes is what compare reads, for one stage and for several."""
    found = MaxRate(p99_ms=50.0, recall=0.9, calls_per_s=80.0, why="", trials=((80.0, ""),))
    given = record(*[report(clients=n + 1) for n in range(n_stages)], notes=("a",), max_rate=found)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(given.to_dict()))
    assert read_record(path) == given
    assert ("stages" in given.to_dict()) == (n_stages > 1)
    assert ("n_calls" in given.to_dict()) == (n_stages == 1)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"format": 1}', '{"format": 9}', '{"x": 1}'])
def test_a_file_that_is_no_run_is_refused(tmp_path, text):
    """One error that names the file."""
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(CorpusError, match=r"run\.json"):
        read_record(path)
