"""Each question's figures against their formulas; what can't be measured is told, never guessed."""

import shutil

import numpy as np
import pytest

from shoal.errors import InvalidArgumentError
from shoal.evaluation.files import Judgment
from shoal.evaluation.metrics import (
    check_set,
    depth_of,
    parse_metrics,
    split_metrics,
    values_by_question,
)
from shoal.evaluation.rankings import Found
from shoal.evaluation.sets import QuestionSet

GRADES = {"a": {"best": 3, "good": 1, "bad": 0, "also": 2}, "b": {"bad": 0}, "c": {"good": 1}}


def graded(rename=str) -> QuestionSet:
    """Three questions: graded passages, none that is relevant, and one that nobody finds."""
    qrels = [
        Judgment(rename(question), passage, grade)
        for question, grades in GRADES.items()
        for passage, grade in grades.items()
    ]
    queries = {rename(question): "?" for question in GRADES}
    return QuestionSet(name="graded", queries=queries, qrels=qrels)


RANKED = {
    "a": ("unjudged", "good", "bad", "best"),
    "b": ("bad", "good"),
    "c": (),
}


def rankings(rename=str, score=lambda rank: 1.0):
    return {
        rename(question): tuple(Found(name, score(rank)) for rank, name in enumerate(names))
        for question, names in RANKED.items()
    }


def gains(names) -> float:
    """Jarvelin and Kekalainen 2002 as trec_eval has it: grade / log2(rank + 1), ranks from 1."""
    grades = [GRADES["a"].get(name, 0) for name in names]
    return sum(grade / np.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def test_graded_judgments_weigh_by_their_grades():
    """nDCG is linear in the grade; a question without a relevant or a found passage scores 0."""
    metrics = parse_metrics(["nDCG@3", "nDCG@10", "R@10", "R(rel=2)@10", "RR", "P@2"])
    values = values_by_question(metrics, graded(), rankings())
    ideal = ("best", "also", "good")
    wanted = {
        "nDCG@3": gains(RANKED["a"][:3]) / gains(ideal),
        "nDCG@10": gains(RANKED["a"]) / gains(ideal),
        "R@10": 2 / 3,
        "R(rel=2)@10": 1 / 2,
        "RR": 1 / 2,
        "P@2": 1 / 2,
    }
    for name, value in wanted.items():
        assert values[name].tolist() == pytest.approx([value, 0.0, 0.0]), name


def test_the_rank_decides_where_scores_tie_or_lie():
    """The searcher's order is what a user sees, whatever its scores say."""
    metrics = parse_metrics(["RR", "Success@1", "nDCG@10"])
    plain = values_by_question(metrics, graded(), rankings())
    rising = values_by_question(metrics, graded(), rankings(score=float))
    for name, values in plain.items():
        assert rising[name].tolist() == values.tolist()


@pytest.mark.skipif(shutil.which("perl") is None, reason="ERR's program is in Perl")
@pytest.mark.parametrize("rename", ["{} {}".format, "x-{1}".format, "\u00e9 {1}".format])
def test_an_ids_form_changes_no_figure(rename):
    """ERR's program takes numbers alone for ids, and cuts off what stands before a dash."""
    metrics = parse_metrics(["ERR@10", "nDCG@10", "RR@10"])
    plain = values_by_question(metrics, graded(), rankings())
    renamed = values_by_question(
        metrics, graded(lambda q: rename(q, q)), rankings(lambda q: rename(q, q))
    )
    # Chapelle et al. 2009: grades g stop a reader with probability (2^g - 1) / 2^4
    stops = np.array([(2 ** GRADES["a"].get(name, 0) - 1) / 16 for name in RANKED["a"]])
    reached = np.cumprod(np.concatenate([[1.0], 1 - stops[:-1]]))
    assert plain["ERR@10"][0] == pytest.approx((stops * reached / [1, 2, 3, 4]).sum(), abs=1e-5)
    for name, values in plain.items():
        assert renamed[name].tolist() == values.tolist()


@pytest.mark.parametrize("name", ["nDCG@0", "Success@0", "R@-1", "nDCG@10.5", "RR@True"])
def test_a_cutoff_is_a_whole_number_from_one(name):
    """trec_eval ends the whole process on others, after everything was searched."""
    with pytest.raises(InvalidArgumentError):
        parse_metrics([name])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Success", "needs a cutoff"),
        ("RBP(p=0.8)", "Unsupported"),
        ("Accuracy", "Accuracy"),
        ("P(rel=0)@5", "positive"),
    ],
)
def test_what_cant_be_measured_is_told_before_the_search(name, told):
    """ir-measures knows more names than it can compute of judgments by question and passage."""
    with pytest.raises(InvalidArgumentError, match=told) as caught:
        check_set(parse_metrics([name]), graded())
    assert caught.value.message.startswith(f"metric {name} ")


def test_a_line_of_metrics_is_cut_between_them():
    """A metric's own settings have commas, too."""
    line = "Success@1, nDCG@10 P(rel=2,judged_only=True)@5,R(rel=2, judged_only=True)@5"
    assert split_metrics(line) == (
        "Success@1",
        "nDCG@10",
        "P(rel=2,judged_only=True)@5",
        "R(rel=2, judged_only=True)@5",
    )
    assert len(parse_metrics(split_metrics(line))) == 4


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_is_what_a_search_takes(k):
    """A sparse search beside the cluster must not go deeper than it, or not at all."""
    with pytest.raises(InvalidArgumentError, match="1 to 1,000"):
        depth_of(parse_metrics(["RR"]), k)
