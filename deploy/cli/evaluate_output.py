"""What `shoal eval` writes: tables for people, JSON for programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deploy.cli.output import note, write, write_json, write_table

if TYPE_CHECKING:
    from deploy.evaluation.run import SetResult
    from shoal.evaluation.compare import Comparison
    from shoal.evaluation.score import EvalReport, Scored

_MAX_QUESTION_CHARS = 90


def write_results(
    results: "Sequence[SetResult]", *, compared_by: str, n_examples: int, exact: bool, as_json: bool
) -> None:
    """All sets. `compared_by` is a metric's name, or empty for no comparison."""
    if as_json:
        told = [_json(result, compared_by, n_examples, exact=exact) for result in results]
        names = [result.source.questions.name for result in results]
        write_json(told[0] if len(told) == 1 else {"sets": dict(zip(names, told, strict=True))})
        return
    if len(results) == 1 and len(results[0].scored) == 1:
        (scored,) = results[0].scored.values()
        write_table(("metric", "value", "95 %"), _rows(scored))
    else:
        _write_wide(results)
    for result in results:
        prefix = f"{result.source.questions.name}: " if len(results) > 1 else ""
        if result.report is not None:
            about = ", ".join(f"{key} {value}" for key, value in _about(result.report).items())
            write(f"{prefix}{about}")
        if compared_by:
            _write_comparisons(result, compared_by, n_examples, prefix)


def note_what_is_odd(results: "Sequence[SetResult]") -> None:
    """Tells people, beside the figures, of searchers that most likely search something else."""
    from deploy.evaluation.run import searchers_in_the_dark

    for result in results:
        for searcher in searchers_in_the_dark(result):
            note(
                f"note: {searcher} found none of the passages that {result.source.questions.name} "
                "judges; are they in what it searches, under the same ids?"
            )


def _rows(scored: "Scored") -> list[tuple[str, str, str]]:
    return [
        (name, f"{value:.4f}", _interval(scored, name)) for name, value in scored.figures.items()
    ]


def _interval(scored: "Scored", name: str) -> str:
    if name not in scored.intervals:
        return ""
    low, high = scored.intervals[name]
    return f"{low:.4f} - {high:.4f}"


def _write_wide(results: "Sequence[SetResult]") -> None:
    """A line a set and searcher: the metrics, each with half the width of its interval."""
    first = next(iter(results[0].scored.values()))
    rows = []
    for result in results:
        for searcher, scored in result.scored.items():
            cells = []
            for name, value in scored.figures.items():
                low, high = scored.intervals.get(name, (value, value))
                cells.append(f"{value:.4f} ±{(high - low) / 2:.4f}")
            n_questions = len(result.source.questions.asked)
            rows.append((result.source.questions.name or "-", n_questions, searcher, *cells))
    write_table(("set", "questions", "searcher", *first.figures), rows)


def _write_comparisons(result: "SetResult", metric: str, n_examples: int, prefix: str) -> None:
    from deploy.evaluation.run import comparisons

    ours = next(iter(result.scored))
    for name, comparison in comparisons(result, metric).items():
        low, high = comparison.interval
        write()
        write(
            f"{prefix}{ours} against {name} by {metric}: wins {len(comparison.wins):,}, loses "
            f"{len(comparison.losses):,}, ties {comparison.n_ties:,}; "
            f"difference {comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        )
        for title, ids in ((f"{ours} wins", comparison.wins), (f"{name} wins", comparison.losses)):
            for query_id in ids[:n_examples]:
                example = _example(result, query_id)
                firsts = ", ".join(f"{who}: {first}" for who, first in example["first"].items())
                write(f"  {title}: {example['question'][:_MAX_QUESTION_CHARS]!r} "
                      f"[{query_id}] first {firsts}")  # fmt: skip


def _json(result: "SetResult", compared_by: str, n_examples: int, *, exact: bool) -> dict[str, Any]:
    """The first searcher's figures keyed by metric name; the others under `baselines`."""
    from deploy.evaluation.run import comparisons

    (searcher, scored), *others = result.scored.items()
    told: dict[str, Any] = {**scored.figures, "intervals": dict(scored.intervals)}
    told["searcher"] = searcher
    if result.report is None:
        told |= {"n_queries": len(result.source.questions.asked), "k": result.k}
    else:
        told |= _about(result.report) | {"exact": exact}
    if others:
        told["baselines"] = {
            name: {**other.figures, "intervals": dict(other.intervals)} for name, other in others
        }
    if compared_by:
        told["comparisons"] = {
            name: _comparison(result, comparison, n_examples)
            for name, comparison in comparisons(result, compared_by).items()
        }
    return told


def _comparison(result: "SetResult", comparison: "Comparison", n_examples: int) -> dict[str, Any]:
    return {
        "metric": comparison.metric,
        "difference": comparison.difference,
        "interval": comparison.interval,
        "n_wins": len(comparison.wins),
        "n_losses": len(comparison.losses),
        "n_ties": comparison.n_ties,
        "wins": list(comparison.wins),
        "losses": list(comparison.losses),
        "examples": {
            "wins": [_example(result, query_id) for query_id in comparison.wins[:n_examples]],
            "losses": [_example(result, query_id) for query_id in comparison.losses[:n_examples]],
        },
    }


def _example(result: "SetResult", query_id: str) -> dict[str, Any]:
    firsts = {}
    for searcher, scored in result.scored.items():
        ranking = scored.rankings.get(query_id, ())
        firsts[searcher] = ranking[0].id if ranking else None
    judged = [j.passage_id for j in result.source.questions.qrels
              if j.query_id == query_id and j.relevance > 0]  # fmt: skip
    question = result.source.questions.queries[query_id]
    return {"id": query_id, "question": question, "gold": judged, "first": firsts}


def _about(report: "EvalReport") -> dict[str, Any]:
    return {
        "n_queries": report.n_queries,
        "k": report.k,
        "index": report.index,
        "version": report.version,
        "n_probe": report.n_probe,
        "candidates": report.candidates,
        "coverage": report.coverage,
        "n_truncated": report.n_truncated,
        "n_shrunk": report.n_shrunk,
        "queries_per_s": round(report.queries_per_s, 1),
    }
