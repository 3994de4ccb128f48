"""Sets and searchers: every set through the cluster and the baselines, question by question.

Rule: whatever is missing is told before anything is searched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from deploy.evaluation.sources import SetSource, check_corpus, check_names, read_passages
from shoal.errors import ConfigError
from shoal.evaluation.compare import Comparison, compare
from shoal.evaluation.metrics import check_set, depth_of, parse_metrics
from shoal.evaluation.rankings import Found
from shoal.evaluation.score import EvalPlan, EvalReport, Scored, ask_sparse, evaluate, score
from shoal.evaluation.sparse import Baseline, SparseSearch, open_sparse
from shoal.requests import SearchOptions

CLUSTER = "cluster"

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """One set's scores by searcher, the cluster's first; `report` is the cluster's, if asked."""

    source: SetSource
    scored: Mapping[str, Scored]
    report: EvalReport | None
    k: int


def measure_sets(
    sources: Sequence[SetSource],
    plan: EvalPlan | None,
    metrics: Sequence[str],
    k: int | None,
    baselines: Sequence[Baseline],
    corpus: str,
    progress: Progress,
) -> list[SetResult]:
    """Every set through every searcher.

    Args:
        sources: the sets.
        plan: how to ask the cluster; None leaves it out.
        metrics: names.
        k: hits a question; None is what the metrics need.
        baselines: sparse searches beside the cluster.
        corpus: what they search; empty is each set's own.
        progress: told of questions, by searcher and set.

    Raises:
        ConfigError: a baseline without a corpus, no searcher at all, or two sets of one name.
        CorpusError: a set or a corpus that can't be used.
        ShoalError: as `evaluate`.
    """
    parsed = parse_metrics(metrics)
    depth = depth_of(parsed, k)
    if plan is None and not baselines:
        raise ConfigError("--offline leaves the cluster out; give --baseline bm25 or tfidf")
    check_names(sources)
    for source in sources:
        check_set(parsed, source.questions)
        if baselines and not (corpus or source.corpus):
            raise ConfigError("--baseline searches a corpus; give --corpus PATH")
    if baselines:
        for path in dict.fromkeys(corpus or source.corpus for source in sources):
            check_corpus(path)
        for name in baselines:
            open_sparse(name, ["its package is here"])
    results = []
    for source in sources:
        scored: dict[str, Scored] = {}
        report = None
        show = _of_set(progress, source, alone=len(sources) == 1)
        if plan is not None:
            options: SearchOptions = {**plan.options, "index": source.index}
            asking = replace(plan, options=options)
            report = evaluate(asking, source.questions, show("queries"))
            scored[CLUSTER] = report.scored
        for name in baselines:
            search, passages = _open(name, corpus or source.corpus)
            rankings = ask_sparse(search, passages, source.questions, depth, show(name))
            scored[name] = score(parsed, source.questions, rankings)
        results.append(SetResult(source=source, scored=scored, report=report, k=depth))
    return results


def comparisons(result: SetResult, metric: str) -> dict[str, Comparison]:
    """The first searcher against each other one, by that one's name."""
    first, *others = result.scored.items()
    asked = result.source.questions.asked
    return {
        name: compare(metric, asked, first[1].values[metric], scored.values[metric])
        for name, scored in others
    }


def searchers_in_the_dark(result: SetResult) -> list[str]:
    """Those that found no judged passage for any question: most likely they search others."""
    relevant = {(j.query_id, j.passage_id) for j in result.source.questions.qrels
                if j.relevance > 0}  # fmt: skip
    if not relevant:
        return []
    return [
        searcher
        for searcher, scored in result.scored.items()
        if not any(
            (query_id, found.id) in relevant
            for query_id, ranking in scored.rankings.items()
            for found in ranking
        )
    ]


@lru_cache(maxsize=2)
def _passages(corpus: str) -> list[Found]:
    return read_passages(corpus)


@lru_cache(maxsize=2)
def _open(name: Baseline, corpus: str) -> tuple[SparseSearch, list[Found]]:
    passages = _passages(corpus)
    return open_sparse(name, [f"{p.title} {p.text}" for p in passages]), passages


def _of_set(
    progress: Progress, source: SetSource, *, alone: bool
) -> Callable[[str], Callable[[int, int], None]]:
    def of(searcher: str) -> Callable[[int, int], None]:
        stage = searcher if alone else f"{source.questions.name}, {searcher}"
        return lambda done, total: progress(stage, done, total)

    return of
