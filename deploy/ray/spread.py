"""Whether replicas of one deployment share a node, which would take them down together. Pure.

Serve spreads replicas where it can, and places them together where other nodes have no room. A
limit a node would hinder it from starting a replica more while it rolls, so this only tells.
"""

from collections.abc import Sequence

_MOST_NAMES = 4


def shared_nodes(placed: Sequence[tuple[str, str]], n_nodes: int) -> str:
    """What to tell of deployments whose replicas all run on one node; "" where none does.

    Args:
        placed: each replica's deployment and node.
        n_nodes: nodes that there are; of a single one nothing can be told.
    """
    together = []
    for name in sorted({name for name, _ in placed}):
        nodes = [node for deployment, node in placed if deployment == name]
        if len(nodes) > 1 and len(set(nodes)) == 1:
            together.append(name)
    if not together or n_nodes < 2:
        return ""
    more = len(together) - _MOST_NAMES
    names = ", ".join(together[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return (
        f"all replicas run on one node, which takes them down together: {names}; give other nodes "
        "room for them"
    )
