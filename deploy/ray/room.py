"""Whether a cluster's nodes hold more replicas, and what is missing where they don't. Pure."""

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]
"""Amounts by Ray's names: CPU, GPU, memory in bytes."""

_ROUNDING = 1e-6


def missing_for(asked: Sequence[tuple[str, int, Resources]], free: Sequence[Resources]) -> str:
    """What the nodes lack to hold these replicas, in words; "" where they hold them.

    Largest first, each on the first node that has room: a replica runs on one node, so what is free
    on several doesn't add up.

    Args:
        asked: deployments, how many replicas more, and what each reserves.
        free: what each live node has left.
    """
    left = [dict(node) for node in free]
    lacks = []
    for name, count, each in sorted(asked, key=lambda item: -sum(item[2].values())):
        placed = sum(_place(each, left) for _ in range(count))
        if placed < count:
            needs = ", ".join(f"{amount:g} {what}" for what, amount in sorted(each.items()))
            lacks.append(f"{name}: room for {placed} of {count} more (each needs {needs})")
    if not lacks:
        return ""
    totals = {
        what: sum(node.get(what, 0.0) for node in free)
        for what in sorted({what for _, _, each in asked for what in each})
    }
    has = ", ".join(f"{amount:g} {what}" for what, amount in totals.items()) or "nothing"
    nodes = "1 node has" if len(free) == 1 else f"{len(free)} nodes have"
    return f"{'; '.join(lacks)}; {nodes} left: {has}"


def _place(each: Resources, left: list[dict[str, float]]) -> bool:
    for node in left:
        if all(node.get(what, 0.0) + _ROUNDING >= amount for what, amount in each.items()):
            for what, amount in each.items():
                node[what] = node.get(what, 0.0) - amount
            return True
    return False
