"""Metrics of a served index: every judged query is searched, and its ranking scored.

The rank decides, not the score: what the cluster put first counts as first, ties included, where
trec_eval would order ties by id. Metrics are ir-measures' own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ir_measures

from shoal.answers import Answers
from shoal.client import Client
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import CorpusError, InvalidArgumentError
from shoal.evaluation.files import Judgment
from shoal.requests import SearchOptions

_K_WITHOUT_CUTOFF = 100
_MAX_K = 1000
_CALLS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    """What to measure: metrics as ir-measures names them ("Success@20"), and how to search.

    `k` None is the metrics' highest cutoff, or 100 where one has none.
    """

    target: str
    metrics: tuple[str, ...]
    k: int | None = None
    batch: int = 64
    timeout_s: float = 60.0
    options: SearchOptions = field(default_factory=SearchOptions)
    credentials: Credentials = NO_CREDENTIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """Figures by metric name, and how they were had."""

    metrics: Mapping[str, float]
    n_queries: int
    k: int
    index: str
    version: int
    n_probe: int
    candidates: int
    n_truncated: int
    queries_per_s: float


def evaluate(
    plan: EvalPlan,
    queries: Mapping[str, str],
    qrels: Sequence[Judgment],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvalReport:
    """Searches every query that has a judgment, and scores the rankings.

    Args:
        plan: what to measure.
        queries: texts by id.
        qrels: the judgments.
        on_progress: called with queries done and queries in all.

    Raises:
        InvalidArgumentError: an unknown metric, or a cutoff above k.
        CorpusError: a judged query has no text.
        ShoalError: a search failed.
    """
    measures = parse_metrics(plan.metrics)
    k = _k_of(measures, plan.k)
    judged = list(dict.fromkeys(judgment.query_id for judgment in qrels))
    for query_id in judged:
        if query_id not in queries:
            raise CorpusError(
                f"query {query_id!r} is judged, but the queries' file hasn't its text"
            )
    begun_s = time.perf_counter()
    batches = [judged[i : i + plan.batch] for i in range(0, len(judged), plan.batch)]
    answers = _search_all(plan, k, [[queries[i] for i in ids] for ids in batches], on_progress)
    took_s = time.perf_counter() - begun_s
    # minus the rank as the score keeps the cluster's own order
    run = [
        ir_measures.ScoredDoc(query_id, hit.id, -float(rank))
        for ids, part in zip(batches, answers, strict=True)
        for query_id, result in zip(ids, part, strict=True)
        for rank, hit in enumerate(result.hits)
    ]
    relevant = [ir_measures.Qrel(j.query_id, j.passage_id, j.relevance) for j in qrels]
    figures = ir_measures.calc_aggregate(list(measures.values()), relevant, run)
    return EvalReport(
        metrics={name: float(figures[measure]) for name, measure in measures.items()},
        n_queries=len(judged),
        k=k,
        index=answers[0].index,
        version=answers[0].version,
        n_probe=answers[0].n_probe,
        candidates=answers[0].candidates,
        n_truncated=sum(result.query_truncated for part in answers for result in part),
        queries_per_s=len(judged) / took_s,
    )


def parse_metrics(names: Sequence[str]) -> dict[str, Any]:
    """ir-measures' metrics by the names given.

    Raises:
        InvalidArgumentError: one that isn't known, or whose cutoff is above what a search returns.
    """
    measures = {}
    for name in names:
        try:
            measures[name] = ir_measures.parse_measure(name)
        except (NameError, ValueError, SyntaxError, TypeError) as failure:
            raise InvalidArgumentError(
                f"metric {name!r}: {failure}; such as Success@20, nDCG@10, RR@10, R@100",
                field="metrics",
            ) from failure
        cutoff = measures[name].params.get("cutoff", 0)
        if cutoff > _MAX_K:
            raise InvalidArgumentError(
                f"metric {name!r} needs {cutoff:,} hits a query, a search returns at most "
                f"{_MAX_K:,}",
                field="metrics",
            )
    if not measures:
        raise InvalidArgumentError("no metrics; name some, such as Success@20", field="metrics")
    return measures


def _k_of(measures: Mapping[str, Any], k: int | None) -> int:
    cutoffs: list[int] = [
        measure.params.get("cutoff", _K_WITHOUT_CUTOFF) for measure in measures.values()
    ]
    if k is None:
        return min(_MAX_K, max(cutoffs))
    named = [(measure.params.get("cutoff", 0), name) for name, measure in measures.items()]
    cutoff, name = max(named)
    if cutoff > k:
        raise InvalidArgumentError(f"{name} needs {cutoff} hits a query, k is {k}", field="k")
    return k


def _search_all(
    plan: EvalPlan,
    k: int,
    batches: Sequence[Sequence[str]],
    on_progress: Callable[[int, int], None],
) -> list[Answers]:
    options: SearchOptions = {"priority": "bulk", **plan.options, "k": k, "fields": ()}
    n_queries = sum(len(batch) for batch in batches)
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
                on_progress(n_done, n_queries)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return answers
