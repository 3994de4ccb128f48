"""A set of questions through a searcher: rankings, each question's values, figures, intervals.

The searcher is a running cluster (`ask_cluster`) or a sparse baseline (`ask_sparse`); what is made
of their rankings is one and the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from shoal.answers import Answers
from shoal.client import Client
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.evaluation import bootstrap
from shoal.evaluation.metrics import (
    Metric,
    Values,
    check_set,
    depth_of,
    figures_of,
    needs_text,
    parse_metrics,
    values_by_question,
)
from shoal.evaluation.rankings import Found, Rankings
from shoal.evaluation.sets import QuestionSet
from shoal.evaluation.sparse import SparseSearch, top_rows
from shoal.requests import SearchOptions

_CALLS_IN_FLIGHT = 2
_HITS_WITH_TEXT = 20_000

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    """What to measure: metrics as ir-measures names them ("Success@20"), and how to search.

    `k` None is the metrics' highest cutoff, or 100 where one has none; `with_text` has the hits
    bring their titles and texts even where no metric needs them.
    """

    target: str
    metrics: tuple[str, ...]
    k: int | None = None
    batch: int = 64
    timeout_s: float = 60.0
    with_text: bool = False
    options: SearchOptions = field(default_factory=SearchOptions)
    credentials: Credentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A searcher's figures by metric name, with intervals for those that are means.

    `values` are each question's, in the order of the set's `asked`.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    values: Mapping[str, Values]
    rankings: Rankings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """What a cluster scored, and how its answers were had; `coverage` is the least of any."""

    scored: Scored
    answers: tuple[Answers, ...]
    n_queries: int
    k: int
    index: str
    version: int
    n_probe: int
    candidates: int
    n_truncated: int
    coverage: float
    queries_per_s: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """Figures by metric name."""
        return self.scored.figures


def evaluate(
    plan: EvalPlan,
    questions: QuestionSet,
    on_progress: OnProgress = lambda _done, _total: None,
) -> EvalReport:
    """Searches every question of the set through the cluster, and scores the rankings.

    Args:
        plan: what to measure.
        questions: the set.
        on_progress: called with queries done and queries in all.

    Raises:
        InvalidArgumentError: an unknown metric, or a cutoff above k.
        CorpusError: a judged query has no text, or the set lacks what a metric needs.
        ShoalError: a search failed.
    """
    metrics = parse_metrics(plan.metrics)
    k = depth_of(metrics, plan.k)
    check_set(metrics, questions)
    asked = questions.asked
    begun_s = time.perf_counter()
    answers = _ask_cluster(
        plan, k, [questions.queries[query_id] for query_id in asked],
        with_text=plan.with_text or needs_text(metrics), on_progress=on_progress,
    )  # fmt: skip
    took_s = time.perf_counter() - begun_s
    results = [result for part in answers for result in part]
    rankings = {
        query_id: tuple(Found(h.id, h.score, h.title, h.text) for h in result.hits)
        for query_id, result in zip(asked, results, strict=True)
    }
    return EvalReport(
        scored=score(metrics, questions, rankings),
        answers=tuple(answers),
        n_queries=len(asked),
        k=k,
        index=answers[0].index,
        version=answers[0].version,
        n_probe=answers[0].n_probe,
        candidates=answers[0].candidates,
        n_truncated=sum(result.query_truncated for result in results),
        coverage=min(part.coverage for part in answers),
        queries_per_s=len(asked) / took_s,
    )


def score(metrics: Sequence[Metric], questions: QuestionSet, rankings: Rankings) -> Scored:
    """The figures of rankings, whoever made them."""
    values = values_by_question(metrics, questions, rankings)
    means = {metric.name: values[metric.name] for metric in metrics if metric.is_mean}
    return Scored(
        figures=figures_of(metrics, values),
        intervals=bootstrap.intervals(means),
        values=values,
        rankings=rankings,
    )


def ask_sparse(
    search: SparseSearch,
    passages: Sequence[Found],
    questions: QuestionSet,
    k: int,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Rankings:
    """The baseline's rankings of the set's questions over `passages`, its corpus in order."""
    rankings = {}
    asked = questions.asked
    for number, query_id in enumerate(asked, start=1):
        scores = search.scores(questions.queries[query_id])
        rankings[query_id] = tuple(
            passages[row]._replace(score=float(scores[row])) for row in top_rows(scores, k)
        )
        on_progress(number, len(asked))
    return rankings


def _ask_cluster(
    plan: EvalPlan, k: int, texts: Sequence[str], *, with_text: bool, on_progress: OnProgress
) -> list[Answers]:
    fields = ("title", "text") if with_text else ()
    options: SearchOptions = {"priority": "bulk", **plan.options, "k": k, "fields": fields}
    # a router refuses calls whose passages would not fit a message
    size = max(1, min(plan.batch, _HITS_WITH_TEXT // k)) if with_text else plan.batch
    batches = [texts[i : i + size] for i in range(0, len(texts), size)]
    answers: list[Answers] = []
    n_done = 0
    # two calls in flight: one is encoded while the other is searched
    shown = plan.credentials
    with (
        Client(plan.target, token=shown.token, tls=shown.tls) as client,
        ThreadPoolExecutor(_CALLS_IN_FLIGHT) as pool,
    ):

        def search(batch: Sequence[str]) -> Answers:
            return client.search_many(batch, timeout_s=plan.timeout_s, **options)

        try:
            for answer in pool.map(search, batches):
                answers.append(answer)
                n_done += len(answer)
                on_progress(n_done, len(texts))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return answers
