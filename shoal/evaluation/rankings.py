"""What a search found for each question, whoever searched: the cluster, BM25, or a single step.

Rule: the rank decides. Scores are what the searcher said of its own hits; only their order counts.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class Found(NamedTuple):
    """One passage found; title and text are empty where they were not asked for."""

    id: str
    score: float
    title: str = ""
    text: str = ""


Rankings: TypeAlias = Mapping[str, tuple[Found, ...]]
"""By question id, best first."""
