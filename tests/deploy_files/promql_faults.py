"""Whether a PromQL expression can say what it means, given what processes tell."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import promql_parser as promql

_ELSEWHERE = {"cluster", "job", "instance"}
"""Labels that whoever scrapes gives."""


def selectors(expression: promql.Expr) -> Iterator[Any]:
    """What an expression reads."""
    found: list[Any] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        elif isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)

    promql.walk(expression, visit)
    return iter({id(node): node for node in found}.values())


def faults(
    text: str, known: Mapping[str, set[str]], closed: Mapping[str, Collection[str]]
) -> list[str]:
    """Why an expression can't say what it means; empty where it can."""
    expression = promql.parse(text)
    told = []
    for selector in selectors(expression):
        if selector.name not in known:
            told.append(f"no process tells {selector.name}")
            continue
        labels = known[selector.name] | _ELSEWHERE
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                told.append(f"{selector.name} has no label {matcher.name}")
            told += _wrong_values(selector.name, matcher, closed)
    labels = _ELSEWHERE.union(*(known.get(s.name, ()) for s in selectors(expression)))
    told += [f"nothing here has a label {name}" for name in _grouped_by(expression) - labels]
    return told


def _wrong_values(metric: str, matcher: Any, closed: Mapping[str, Collection[str]]) -> list[str]:
    if matcher.value.startswith("$") or matcher.name in _ELSEWHERE:
        return []
    possible = closed.get(matcher.name, ())
    is_pattern = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
    values = matcher.value.split("|") if is_pattern else [matcher.value]
    return [
        f"{matcher.name} of {metric} is never {value!r}"
        for value in values
        if value not in possible
    ]


def _grouped_by(expression: promql.Expr) -> set[str]:
    labels: set[str] = set()

    def visit(node: promql.Expr) -> None:
        modifier = getattr(node, "modifier", None)
        if modifier is None:
            return
        labels.update(getattr(modifier, "labels", None) or ())
        labels.update(getattr(modifier, "group_labels", None) or ())
        matching = getattr(modifier, "matching", None)
        labels.update(matching.labels if matching else ())

    promql.walk(expression, visit)
    return labels


def names(text: str) -> set[str]:
    """The names of the metrics that an expression reads."""
    return {selector.name for selector in selectors(promql.parse(text))}
