"""Each question's figures: ir-measures' metrics by gold passage, and `Answer@k` by answer string.

Rule: the rank decides, not the score: what a searcher put first counts as first, ties included,
where trec_eval would order ties by id. What can't be measured is told before anything is searched.
Must not know who searched.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt

from shoal.errors import CorpusError, InvalidArgumentError
from shoal.evaluation.rankings import Found, Rankings
from shoal.evaluation.sets import QuestionSet
from shoal.evaluation.words import AnswerMatch

Values = npt.NDArray[np.float64]

MAX_K = 1000
_K_WITHOUT_CUTOFF = 100
_ANSWER = re.compile(r"Answer@([1-9][0-9]*)")
_BETWEEN = re.compile(r"[\s,]+(?![^(]*\))")
"""White space and commas, but for those in parentheses: `P(rel=2, judged_only=True)@5` is one."""
_ABSENT = re.compile(r"invalid param (\w+)=<object .*>")
"""What ir-measures says where a metric lacks what it can't do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric as it was named. `measure` is ir-measures' own, None for `Answer@k`.

    `cutoff` is 0 where it has none; `is_mean` whether its figure is the mean over questions.
    """

    name: str
    measure: Any
    cutoff: int

    @property
    def is_mean(self) -> bool:
        """Whether the figure over all questions is the mean of each one's."""
        if self.measure is None:
            return True
        return isinstance(self.measure.aggregator(), ir_measures.measures.base.MeanAgg)


def split_metrics(given: str) -> tuple[str, ...]:
    """The names in a line of them, with spaces or commas between."""
    return tuple(name for name in _BETWEEN.split(given) if name)


def parse_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of those names: `Answer@20`, and all of ir-measures'.

    Raises:
        InvalidArgumentError: one that isn't known, or whose cutoff is above what a search returns.
    """
    metrics = tuple(_parse(name) for name in dict.fromkeys(names))
    if not metrics:
        raise InvalidArgumentError("no metrics; name some, such as Success@20", field="metrics")
    return metrics


def depth_of(metrics: Sequence[Metric], k: int | None) -> int:
    """Hits a question that the metrics need: `k`, else the highest cutoff.

    Raises:
        InvalidArgumentError: a cutoff above `k`, or a `k` that no search takes.
    """
    if k is not None and not 1 <= k <= MAX_K:
        raise InvalidArgumentError(f"k is {k:,}; a search returns 1 to {MAX_K:,} hits", field="k")
    if k is None:
        return min(MAX_K, max(metric.cutoff or _K_WITHOUT_CUTOFF for metric in metrics))
    deepest = max(metrics, key=lambda metric: metric.cutoff)
    if deepest.cutoff > k:
        raise InvalidArgumentError(
            f"{deepest.name} needs {deepest.cutoff} hits a query, k is {k}", field="k"
        )
    return k


def needs_text(metrics: Sequence[Metric]) -> bool:
    """Whether any of them looks for answers in the passages' texts."""
    return any(metric.measure is None for metric in metrics)


def check_set(metrics: Sequence[Metric], questions: QuestionSet) -> None:
    """Refuses, before anything is searched, a set that lacks what a metric judges by.

    Raises:
        CorpusError: no judgments, or a question without answers.
        InvalidArgumentError: a metric that can't be had of such judgments, or not on this machine.
    """
    for metric in metrics:
        if metric.measure is not None:
            if not questions.qrels:
                raise CorpusError(f"{metric.name} needs judged passages; give --qrels FILE")
            first = questions.qrels[0]
            _judged([metric], questions, {first.query_id: (Found(first.passage_id, 0.0),)})
        if metric.measure is None:
            for query_id in questions.asked:
                if query_id not in questions.answers:
                    raise CorpusError(
                        f"{metric.name} needs answers, and query {query_id!r} has none; add "
                        "'answers' to its line of the queries' file"
                    )


def values_by_question(
    metrics: Sequence[Metric], questions: QuestionSet, rankings: Rankings
) -> dict[str, Values]:
    """By metric's name, each asked question's value: float64 (n_questions,), in `asked`'s order.

    Raises:
        InvalidArgumentError: a metric that has no value for a question.
    """
    judged = [metric for metric in metrics if metric.measure is not None]
    by_judgment = _judged(judged, questions, rankings) if judged else {}
    if len(judged) == len(metrics):
        return by_judgment
    first = first_answers(questions.answers, rankings)
    ranks = np.array([first.get(query_id, MAX_K) for query_id in questions.asked])
    return {
        metric.name: by_judgment[metric.name]
        if metric.measure is not None
        else (ranks < metric.cutoff).astype(np.float64)
        for metric in metrics
    }


def _judged(
    metrics: Sequence[Metric], questions: QuestionSet, rankings: Rankings
) -> dict[str, Values]:
    """`values_by_question` of ir-measures' metrics.

    Questions and passages go by numbers: some of its programs read white space, dashes and words in
    ids as something else. The score is minus the rank, which keeps the searcher's own order.
    """
    asked = questions.asked
    place = {query_id: number for number, query_id in enumerate(asked)}
    passages: dict[str, str] = {}

    def number_of(passage_id: str) -> str:
        return passages.setdefault(passage_id, str(len(passages)))

    relevant = [
        ir_measures.Qrel(str(place[j.query_id]), number_of(j.passage_id), j.relevance)
        for j in questions.qrels
    ]
    run = [
        ir_measures.ScoredDoc(str(place[query_id]), number_of(found.id), -float(rank))
        for query_id, ranking in rankings.items()
        for rank, found in enumerate(ranking)
    ]
    names: dict[Any, list[str]] = {}
    for metric in metrics:
        names.setdefault(metric.measure, []).append(metric.name)
    values = {metric.name: np.full(len(asked), np.nan) for metric in metrics}
    try:
        for figure in ir_measures.iter_calc(list(names), relevant, run):
            for name in names[figure.measure]:
                values[name][int(figure.query_id)] = figure.value
    except Exception as failure:  # each of its programs fails in its own way
        why = _ABSENT.sub(r"it needs a \1", f"{failure}") or type(failure).__name__
        raise InvalidArgumentError(
            f"metric {', '.join(values)} can't be measured: {why}", field="metrics"
        ) from failure
    for name, of_all in values.items():
        undefined = np.flatnonzero(~np.isfinite(of_all))
        if undefined.size:
            query_id = asked[undefined[0]]
            raise InvalidArgumentError(
                f"metric {name} has no value for query {query_id!r}", field="metrics"
            )
    return values


def first_answers(answers: Mapping[str, Sequence[str]], rankings: Rankings) -> dict[str, int]:
    """By question id, the rank (from 0) of the first text that holds an answer, where one does."""
    first: dict[str, int] = {}
    for query_id, ranking in rankings.items():
        match = AnswerMatch(answers.get(query_id, ()))
        for rank, found in enumerate(ranking):
            if match.found_in(found.text):
                first[query_id] = rank
                break
    return first


def figures_of(metrics: Sequence[Metric], values: Mapping[str, Values]) -> dict[str, float]:
    """By name, the figure over all questions, as the metric itself puts them together."""
    figures = {}
    for metric in metrics:
        if metric.is_mean:
            figures[metric.name] = float(values[metric.name].mean())
            continue
        together = metric.measure.aggregator()
        for value in values[metric.name].tolist():
            together.add(value)
        figures[metric.name] = float(together.result())
    return figures


def _parse(name: str) -> Metric:
    answer = _ANSWER.fullmatch(name)
    if answer:
        measure, cutoff = None, int(answer[1])
    else:
        try:
            measure = ir_measures.parse_measure(name)
        except (NameError, ValueError, SyntaxError, TypeError) as failure:
            raise InvalidArgumentError(
                f"metric {name!r}: {failure}; such as Success@20, Answer@20, nDCG@10, RR@10, R@100",
                field="metrics",
            ) from failure
        given = measure.params.get("cutoff", 0)
        # trec_eval ends the process where a cutoff is no positive number
        if type(given) is not int or ("cutoff" in measure.params and given < 1):
            raise InvalidArgumentError(
                f"metric {name!r}: a cutoff is a whole number from 1", field="metrics"
            )
        cutoff = given
    if cutoff > MAX_K:
        raise InvalidArgumentError(
            f"metric {name!r} needs {cutoff:,} hits a query, a search returns at most {MAX_K:,}",
            field="metrics",
        )
    return Metric(name=name, measure=measure, cutoff=cutoff)
