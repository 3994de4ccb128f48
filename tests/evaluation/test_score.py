"""Metrics through a real server with known rankings, against arithmetic by hand."""

import asyncio
import json

import pytest
from fakes.served_search import serving_search

from deploy.cli.main import run as command
from shoal import errors
from shoal.evaluation.files import Judgment
from shoal.evaluation.metrics import parse_metrics
from shoal.evaluation.score import EvalPlan, evaluate
from shoal.evaluation.sets import QuestionSet
from shoal.v1 import priority_pb2, search_pb2_grpc
from shoal.v1 import search_pb2 as pb

RANKINGS = {"qa": ["p1", "p2", "p3"], "qb": ["p9", "p2", "p1"], "qc": ["p3", "p9", "p8"]}

TEXTS = {"p1": "in 1715.", "p2": "Louis XIV", "p3": "", "p8": "the 1715th", "p9": "in 1714"}


class Ranked(search_pb2_grpc.SearchServiceServicer):
    """Answers each text with its ranking, every score the same."""

    def __init__(self) -> None:
        self.requests: list[pb.SearchRequest] = []
        self.versions = [2]
        self.shrunk = [False]

    async def Search(self, request, context):
        self.requests.append(request)
        results = [
            pb.QueryResult(
                hits=[
                    pb.Hit(passage=pb.Passage(id=i, text=TEXTS[i]), score=0.5)
                    for i in RANKINGS[query.text]
                ]
            )
            for query in request.queries
        ]
        n_calls = len(self.requests) - 1
        shrunk = self.shrunk[n_calls % len(self.shrunk)]
        return pb.SearchResponse(
            results=results,
            index="i",
            version=self.versions[n_calls % len(self.versions)],
            n_probe=2 if shrunk else 4,
            n_probe_wanted=4 if shrunk else 0,
            candidates=100,
        )


@pytest.fixture
async def ranked():
    servicer = Ranked()
    async with serving_search(servicer) as servicer.target:
        yield servicer


QUERIES = {"a": "qa", "b": "qb", "c": "qc", "unjudged": "qa"}
QRELS = [Judgment("a", "p1", 1), Judgment("b", "p1", 1), Judgment("c", "p1", 1)]
SET = QuestionSet(name="abc", queries=QUERIES, qrels=QRELS)


async def run(ranked, **plan):
    plan = {"metrics": ("Success@1", "Success@3", "RR@3"), "batch": 2, **plan}
    plan = EvalPlan(target=ranked.target, **plan)
    return await asyncio.to_thread(evaluate, plan, SET)


async def test_metrics_are_those_of_the_ranking(ranked):
    """p1 is first, third and absent: Success@1 1/3, Success@3 2/3, RR (1 + 1/3 + 0) / 3; equal
    scores don't reorder what the cluster ranked.
    """
    report = await run(ranked)
    assert report.metrics == pytest.approx(
        {"Success@1": 1 / 3, "Success@3": 2 / 3, "RR@3": (1 + 1 / 3) / 3}
    )
    assert (report.n_queries, report.k, report.version, report.n_probe) == (3, 3, 2, 4)


async def test_only_what_is_needed_is_asked(ranked):
    """Judged queries alone, ids alone, as bulk work, with the options given."""
    await run(ranked, k=7, options={"exact": True})
    assert sorted(q.text for r in ranked.requests for q in r.queries) == ["qa", "qb", "qc"]
    for request in ranked.requests:
        assert request.HasField("fields")
        assert request.priority == priority_pb2.PRIORITY_BULK
        assert request.exact
        assert request.k == 7


async def test_an_answer_counts_wherever_it_stands(ranked):
    """Any passage that holds an answer will do, gold or not; only then do texts travel."""
    answers = {"a": ("1715",), "b": ("louis xiv", "1714"), "c": ("1715",)}
    questions = QuestionSet(name="abc", queries=QUERIES, qrels=QRELS, answers=answers)
    plan = EvalPlan(target=ranked.target, metrics=("Answer@1", "Answer@3", "Success@1"))
    report = await asyncio.to_thread(evaluate, plan, questions)
    assert report.metrics == pytest.approx(
        {"Answer@1": 2 / 3, "Answer@3": 2 / 3, "Success@1": 1 / 3}
    )
    assert list(ranked.requests[0].fields.paths) == ["title", "text"]
    assert report.scored.values["Answer@1"].tolist() == [1.0, 1.0, 0.0]


async def test_a_figure_comes_with_its_interval(ranked):
    """One for each mean; a sum over questions has none."""
    report = await run(ranked, metrics=("Success@1", "NumRet"))
    low, high = report.scored.intervals["Success@1"]
    assert 0.0 <= low < 1 / 3 < high <= 1.0
    assert report.metrics["NumRet"] == 9.0
    assert "NumRet" not in report.scored.intervals


async def test_an_index_that_changes_meanwhile_is_not_measured(ranked):
    """Half the questions of one version and half of another are the figures of neither."""
    ranked.versions = [2, 3]
    with pytest.raises(errors.FailedPreconditionError, match=r"from version . to .") as caught:
        await run(ranked)
    assert "measure it again" in caught.value.message


async def test_questions_that_were_searched_less_are_counted(ranked):
    """A call with little time left probes fewer lists: its figures are of a lesser search."""
    ranked.shrunk = [True, True]
    report = await run(ranked)
    assert (report.n_probe, report.n_shrunk) == (4, 3)
    ranked.shrunk = [False]
    assert (await run(ranked)).n_shrunk == 0


async def test_the_command_tells_programs_how_the_cluster_searched(ranked, tmp_path, capsys):
    """The keys that docs/evaluation.md names; DPR's file has texts though no metric needs them."""
    lines = [{"_id": i, "text": text, "answers": ["1715"]} for i, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "qrels.tsv").write_text("\n".join("\t".join(map(str, j)) for j in QRELS))
    arguments = ["eval", "--set", str(tmp_path), "--target", ranked.target, "--metrics", "RR@3",
                 "--dpr-json", str(tmp_path / "out.json"), "--json"]  # fmt: skip
    code = await asyncio.to_thread(command, arguments)
    written = capsys.readouterr()
    assert code == 0, written.err
    told = json.loads(written.out)
    assert set(told) == {
        "RR@3", "intervals", "searcher", "n_queries", "k", "index", "version", "n_probe",
        "candidates", "exact", "coverage", "n_truncated", "n_shrunk", "queries_per_s",
    }  # fmt: skip
    assert told["RR@3"] == pytest.approx((1 + 1 / 3) / 3)
    assert (told["searcher"], told["index"], told["version"]) == ("cluster", "i", 2)
    results = json.loads((tmp_path / "out.json").read_text())
    found = [[(ctx["id"], ctx["has_answer"]) for ctx in r["ctxs"]] for r in results]
    assert found[0] == [("p1", True), ("p2", False), ("p3", False)]
    assert results[0]["ctxs"][0]["text"] == TEXTS["p1"]


@pytest.mark.parametrize(
    ("metric", "answers", "told"),
    [("Answer@5", {"a": ("x",)}, "query 'b' has none"), ("RR", {"a": ("x",)}, "needs judged")],
)
def test_what_a_metric_judges_by_must_be_there(metric, answers, told):
    """Told before anything is searched: a question without answers is not one that failed."""
    qrels = QRELS if metric.startswith("Answer") else []
    questions = QuestionSet(name="abc", queries=QUERIES, qrels=qrels, answers=answers)
    with pytest.raises(errors.CorpusError, match=told):
        evaluate(EvalPlan(target="x", metrics=(metric,)), questions)


async def test_k_must_reach_the_cutoff(ranked):
    """Success@3 of 2 hits would be a lie."""
    with pytest.raises(errors.InvalidArgumentError, match="Success@3 needs 3"):
        await run(ranked, k=2)


def test_a_judged_query_without_text_is_refused():
    """A query that can't be asked must not count as a miss."""
    plan = EvalPlan(target="x", metrics=("RR",))
    with pytest.raises(errors.CorpusError, match="'z' is judged"):
        evaluate(plan, QuestionSet(name="z", queries=QUERIES, qrels=[Judgment("z", "p1", 1)]))


@pytest.mark.parametrize("names", [(), ("Foo@1",), ("Success@",)])
def test_an_unknown_metric_is_refused(names):
    """The message gives examples of what there is."""
    with pytest.raises(errors.InvalidArgumentError, match="Success@20"):
        parse_metrics(names)


def test_a_cutoff_beyond_what_a_search_returns_is_refused():
    """R@1001 from 1,000 hits would be R@1000 under another name."""
    assert [metric.name for metric in parse_metrics(["R@1000"])] == ["R@1000"]
    with pytest.raises(errors.InvalidArgumentError, match=r"'R@1001' needs 1,001") as caught:
        parse_metrics(["Success@1", "R@1001"])
    assert caught.value.field == "metrics"
