"""Recall: what was found beside what exact search finds. Pure.

Rule: an answer is compared with the truth of its own version; another version's passages are other
passages, and such answers are counted apart.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Self

from shoal.bench.tally import Recall
from shoal.bench.target import Ids, Reply, Served

_Z_95 = 1.96
_FEW = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What exact search finds, by request: the ids of each query's best k, of one version."""

    served: Served
    ids: dict[int, Ids]

    def recall_of(self, request: int, reply: Reply) -> float | None:
        """The recall of an answer to `request`, 0.0 to 1.0; None for another version's."""
        if reply.served != self.served or reply.ids is None:
            return None
        return recall_at_k(reply.ids, self.ids[request])

    def to_json(self) -> dict[str, Any]:
        """The truth for JSON."""
        return {"index": self.served.index, "version": self.served.version, "ids": self.ids}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The truth that `to_json` wrote."""
        return cls(
            served=Served(index=values["index"], version=values["version"]),
            ids={
                int(request): tuple(map(tuple, queries))
                for request, queries in values["ids"].items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallFigures:
    """Recall at `k` against exact search: the mean over `n` requests, its 95 % interval by them.

    `n_answers` were compared; `n_other_version` were not, because the index had moved on.
    """

    k: int
    n: int
    n_answers: int
    mean: float
    low: float
    high: float
    n_other_version: int


def sampled(n_requests: int, n_wanted: int, n_calls: int | None, seed: int) -> list[int]:
    """Which requests are searched exactly too: spread evenly over those that will be sent.

    `n_calls` is how many that is; where nobody knows (a closed loop), each tenfold of calls gets as
    many, so that neither a slow nor a fast target misses them. They come in random order, so that
    the first of them are a fair sample as well.
    """
    n_sent = n_requests if n_calls is None else max(1, min(n_requests, n_calls))
    n_taken = min(n_wanted, n_sent)
    if n_calls is None and n_sent > _FEW:
        steps = ((n_sent / _FEW) ** (i / n_taken) for i in range(n_taken))
        chosen = sorted({min(n_sent - 1, int(_FEW * step)) for step in steps})
    else:
        chosen = [i * n_sent // n_taken for i in range(n_taken)]
    random.Random(seed).shuffle(chosen)
    return chosen


def recall_at_k(found: Ids, true: Ids) -> float:
    """The share of the true passages that were found, the mean over a request's queries."""
    shares = [
        len(set(wanted).intersection(got)) / len(wanted) if wanted else 1.0
        for got, wanted in zip(found, true, strict=True)
    ]
    return fmean(shares)


def recall_figures(
    of_requests: Iterable[Recall], *, k: int, n_other_version: int
) -> RecallFigures | None:
    """The figures of a run; None where no answer was compared."""
    compared = [recall for recall in of_requests if recall.n]
    means = [recall.total / recall.n for recall in compared]
    if not means:
        return None
    mean = fmean(means)
    half = _Z_95 * stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 1.0
    return RecallFigures(
        k=k,
        n=len(means),
        n_answers=sum(recall.n for recall in compared),
        mean=mean,
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        n_other_version=n_other_version,
    )
