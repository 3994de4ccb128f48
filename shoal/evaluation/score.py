"""A set of questions through a searcher: rankings, each question's values, figures, intervals.

The searcher is a running cluster (`ask_cluster`) or a sparse baseline (`ask_sparse`); what is made
of their rankings is one and the same.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shoal.answers import Hit, Served
from shoal.client import Client
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import FailedPreconditionError
from shoal.evaluation import bootstrap
from shoal.evaluation.asking import ask
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
class Call:
    """One call: which questions it asked, and how they were answered; the hits are left out."""

    query_ids: tuple[str, ...]
    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """What a cluster scored, and how its answers were had.

    `coverage` is the least of any; `n_probe` is what was meant, and `n_shrunk` questions were
    answered from fewer lists, where little of a call's time was left.
    """

    scored: Scored
    calls: tuple[Call, ...]
    n_queries: int
    k: int
    index: str
    version: int
    n_probe: int
    candidates: int
    n_truncated: int
    n_shrunk: int
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
        FailedPreconditionError: the index changed in the meantime.
        ShoalError: a search failed.
    """
    metrics = parse_metrics(plan.metrics)
    k = depth_of(metrics, plan.k)
    check_set(metrics, questions)
    asked = questions.asked
    with_text = plan.with_text or needs_text(metrics)
    options: SearchOptions = {
        **plan.options, "k": k, "fields": ("title", "text") if with_text else ()
    }  # fmt: skip
    texts = [questions.queries[query_id] for query_id in asked]
    calls: list[Call] = []
    rankings: dict[str, tuple[Found, ...]] = {}
    kept: dict[str, Found] = {}
    n_truncated = 0
    begun_s = time.perf_counter()
    shown = plan.credentials
    with Client(plan.target, token=shown.token, tls=shown.tls) as client:
        for answers in ask(client, texts, options=options, batch=plan.batch,
                           timeout_s=plan.timeout_s):  # fmt: skip
            ids = asked[len(rankings) : len(rankings) + len(answers)]
            for query_id, result in zip(ids, answers, strict=True):
                rankings[query_id] = tuple(_found(hit, kept) for hit in result.hits)
            calls.append(Call(query_ids=tuple(ids), served=replace(answers, results=())))
            _check_version(calls[0].served, answers)
            n_truncated += sum(result.query_truncated for result in answers)
            on_progress(len(rankings), len(asked))
    took_s = time.perf_counter() - begun_s
    first = calls[0].served
    return EvalReport(
        scored=score(metrics, questions, rankings),
        calls=tuple(calls),
        n_queries=len(asked),
        k=k,
        index=first.index,
        version=first.version,
        n_probe=first.n_probe_wanted or first.n_probe,
        candidates=first.candidates,
        n_truncated=n_truncated,
        n_shrunk=sum(len(call.query_ids) for call in calls if call.served.n_probe_wanted),
        coverage=min(call.served.coverage for call in calls),
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


def _check_version(first: Served, now: Served) -> None:
    if (now.index, now.version) != (first.index, first.version):
        raise FailedPreconditionError(
            f"index {first.index!r} went from version {first.version} to {now.version} while it "
            "was measured; measure it again"
        )


def _found(hit: Hit, kept: dict[str, Found]) -> Found:
    """The hit; a passage's texts are kept once, however many questions find it."""
    first = kept.setdefault(hit.id, Found(hit.id, hit.score, hit.title, hit.text))
    return first._replace(score=hit.score)
