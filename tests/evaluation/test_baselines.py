"""Sparse search, its rankings as files, and the command that puts them side by side."""

import json

import ir_measures
import numpy as np
import pytest
from facts import FACTS, QUESTIONS
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.cli.main import run as command
from shoal.errors import CorpusError
from shoal.evaluation.rankings import Found
from shoal.evaluation.results import write_dpr_results, write_trec_run
from shoal.evaluation.sets import QuestionSet
from shoal.evaluation.sparse import open_sparse, top_rows

TEXTS = [f"{title} {text}" for title, text in FACTS.values()]


@pytest.fixture
def facts(tmp_path):
    """FACTS as a BEIR folder; each question's answer is the first word of its passage's title."""
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": i, "title": t, "text": x}) for i, (t, x) in FACTS.items())
    )
    (folder / "queries.jsonl").write_text(
        "\n".join(
            json.dumps({"_id": f"q{n}", "text": q, "answers": [" ".join(FACTS[p][1].split()[:3])]})
            for n, (q, p) in enumerate(QUESTIONS.items())
        )
    )
    judged = (f"q{n}\t{p}\t1" for n, p in enumerate(QUESTIONS.values()))
    (folder / "qrels.tsv").write_text("\n".join(judged))
    return folder


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 12))
def test_the_best_rows_are_those_of_a_full_sort(scores, k):
    """Best first, ties by row, and nothing that shares no word."""
    ordered = sorted((-score, row) for row, score in enumerate(scores) if score > 0)
    wanted = [row for _, row in ordered[:k]]
    assert top_rows(np.array(scores, dtype=np.float32), k).tolist() == wanted


def test_bm25_is_the_formula():
    """Lucene's BM25 (k1 1.5, b 0.75) by hand: idf = ln(1 + (N - n + .5) / (n + .5))."""
    texts = ["cat cat dog", "dog", "bird bird bird fish"]
    n_words, mean = np.array([3, 1, 4]), 8 / 3
    counts = np.array([2, 0, 0])
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    wanted = idf * counts / (counts + 1.5 * (1 - 0.75 + 0.75 * n_words / mean))
    assert open_sparse("bm25", texts).scores("the cat") == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["bm25", "tfidf"])
def test_words_find_their_passage(name):
    """A passage is found by its own text; a question of unknown words finds nothing."""
    search = open_sparse(name, TEXTS)
    for row, text in enumerate(TEXTS):
        assert top_rows(search.scores(text), 1).tolist() == [row]
    assert not top_rows(search.scores("zzz qqq"), 5).size
    assert not top_rows(search.scores("?"), 5).size


@pytest.mark.parametrize("name", ["bm25", "tfidf"])
@pytest.mark.parametrize("texts", [["the", "and of"], ["", "?"]])
def test_a_corpus_without_words_is_told(name, texts):
    """Both libraries fail on one, each in its own way."""
    with pytest.raises(CorpusError, match="no words"):
        open_sparse(name, texts)


def test_a_trec_run_reads_back(tmp_path):
    """ir-measures reads what was written, ranks and scores."""
    rankings = {"q": (Found("a", 2.5), Found("b", 1.25))}
    write_trec_run(tmp_path / "run.txt", rankings, "shoal")
    assert (tmp_path / "run.txt").read_text().splitlines()[1] == "q Q0 b 2 1.25 shoal"
    docs = list(ir_measures.read_trec_run(str(tmp_path / "run.txt")))
    assert [(d.query_id, d.doc_id, d.score) for d in docs] == [("q", "a", 2.5), ("q", "b", 1.25)]
    with pytest.raises(CorpusError, match="white space"):
        write_trec_run(tmp_path / "bad.txt", {"q": (Found("a b", 1.0),)}, "shoal")
    assert not (tmp_path / "bad.txt").exists()


def test_dprs_results_say_which_passage_answers(tmp_path):
    """`has_answer` is judged on the text alone, as DPR does: a title is no answer."""
    questions = QuestionSet(name="x", queries={"q": "when?"}, qrels=[], answers={"q": ("1715",)})
    rankings = {"q": (Found("a", 1.0, "1715", "no"), Found("b", 0.5, "", "in 1715."))}
    write_dpr_results(tmp_path / "out.json", questions, rankings)
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert [ctx["has_answer"] for ctx in record["ctxs"]] == [False, True]
    assert record["answers"] == ["1715"]
    assert record["ctxs"][1]["score"] == "0.5"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_baselines_need_no_cluster(facts, tmp_path):
    """`--offline` measures BM25 and TF-IDF; figures stay keyed by metric, intervals beside them."""
    told = json.loads(
        run("--offline", "--set", str(facts), "--baseline", "bm25", "--baseline", "tfidf",
            "--metrics", "Success@1 Answer@1 RR", "--compare", "--run", str(tmp_path / "run"),
            "--dpr-json", str(tmp_path / "dpr.json"), "--json")
    )  # fmt: skip
    results = json.loads((tmp_path / "dpr.json").read_text())
    by_answer = np.mean([bool(r["ctxs"]) and r["ctxs"][0]["has_answer"] for r in results])
    assert told["Answer@1"] == pytest.approx(by_answer)
    assert told["Success@1"] == told["Answer@1"]  # every answer is its gold passage's beginning
    low, high = told["intervals"]["Success@1"]
    assert low <= told["Success@1"] <= high
    assert told["searcher"] == "bm25"
    # what programs read: docs/evaluation.md names them
    assert set(told) == {"Success@1", "Answer@1", "RR", "intervals", "searcher", "n_queries", "k",
                         "baselines", "comparisons"}  # fmt: skip
    contrast = told["comparisons"]["tfidf"]
    assert set(contrast) == {"metric", "difference", "interval", "n_wins", "n_losses", "n_ties",
                             "wins", "losses", "examples"}  # fmt: skip
    assert set(told["baselines"]["tfidf"]) == {"Success@1", "Answer@1", "RR", "intervals"}
    n_compared = contrast["n_wins"] + contrast["n_losses"] + contrast["n_ties"]
    assert n_compared == told["n_queries"] == len(QUESTIONS)
    difference = told["Success@1"] - told["baselines"]["tfidf"]["Success@1"]
    assert contrast["difference"] == pytest.approx(difference, abs=1e-6)


def test_several_sets_stand_in_one_table(facts):
    """A line a set and searcher; in JSON a set's figures are found by its name."""
    arguments = (
        "--offline",
        "--set",
        f"one={facts}",
        "--set",
        f"two={facts}",
        "--baseline",
        "bm25",
    )
    table = run(*arguments)
    assert table.splitlines()[0].split()[:4] == ["set", "questions", "searcher", "Success@1"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["one", "two"]
    compared = run(*arguments, "--baseline", "tfidf", "--compare").splitlines()
    headed = [line.partition(" by ")[0] for line in compared if " against " in line]
    assert headed == ["one: bm25 against tfidf", "two: bm25 against tfidf"]
    told = json.loads(run(*arguments, "--json"))
    assert told["sets"]["one"] == told["sets"]["two"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--offline"], "give --baseline"),
        (["--offline", "--baseline", "bm25", "--compare"], "needs two searches"),
        (["--baseline", "splade"], "known are bm25, tfidf"),
        (["--png", "x.png"], "belong to --waterfall"),
        (["--device", "cpu"], "belong to --waterfall"),
        (["--corpus", "c.jsonl"], "what a --baseline searches"),
        (["--offline", "--baseline", "bm25", "--n-probe", "4"], "are the cluster's"),
        (["--waterfall", "--compare"], "explains the cluster alone"),
        (["--waterfall", "--offline"], "through a running cluster"),
        (["--waterfall"], "needs the index's folder"),
        (["--offline", "--baseline", "bm25", "--queries", "q.jsonl"], "or --set FOLDER"),
    ],
)
def test_flags_that_make_no_sense_together_are_told(facts, arguments, told, capsys):
    """Before anything is searched, in one line."""
    assert command(["eval", "--set", str(facts), "--target", "127.0.0.1:1", *arguments]) != 0
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--run", "{}/none/run"], "there is no folder"),
        (["--dpr-json", "{}"], "it is a folder"),
        (["--metrics", "Success"], "needs a cutoff"),
        (["-k", "0"], "1 to 1,000"),
        (["--set", "{}"], "two sets are named 'facts'"),
        (["--corpus", "{}/none.jsonl"], "no such file"),
    ],
)
def test_what_would_fail_in_the_end_is_told_at_the_start(facts, arguments, told, capsys):
    """An hour of questions must not be asked for nothing: here the cluster isn't even there."""
    given = [each.format(facts) for each in arguments]
    base = ["eval", "--set", str(facts), "--target", "127.0.0.1:1", "--baseline", "bm25"]
    assert command([*base, *given]) != 0
    written = capsys.readouterr().err
    assert told in written
    assert written.count("\n") == 1


def test_figures_stand_though_a_file_could_not_be_written(facts, tmp_path, capsys):
    """What a TREC run can't hold is known in the end alone; the measuring is not lost for it."""
    corpus = facts / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace('"_id": "', '"_id": "p '))
    assert command(["eval", "--offline", "--baseline", "bm25", "--set", str(facts), "--json",
                    "--run", str(tmp_path / "run")]) == 65  # fmt: skip
    written = capsys.readouterr()
    assert json.loads(written.out)["n_queries"] == len(QUESTIONS)
    assert "white space" in written.err
    assert not (tmp_path / "run").exists()
    # and its passages are no longer those that the set judges
    assert "bm25 found none of the passages that facts judges" in written.err


def test_a_passage_that_is_there_twice_is_refused(facts, capsys):
    """One id for two texts: a figure could not say which was found."""
    with (facts / "corpus.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"_id": next(iter(FACTS)), "text": "again"}))
    assert command(["eval", "--offline", "--baseline", "bm25", "--set", str(facts)]) == 65
    assert f"corpus.jsonl:{len(FACTS) + 1}: id" in capsys.readouterr().err
