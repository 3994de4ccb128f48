"""Which of the passages found for a question are hard negatives. Pure.

Rules:
1. A passage that may answer the question is no negative: gold passages, copies of them under other
   ids, and passages that hold an answer string.
2. What the cluster scores above the positive less a margin is left out, because labels are not
   complete (Moreira et al. 2024, arXiv:2407.15831, call it positive-aware mining). The positive
   itself must be among the hits for that; where it isn't, every hit scored above it.
3. Sources take turns, best first, and no passage is chosen twice, whatever its id.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest

from encoder_service.training.pairs import text_key
from shoal.evaluation.rankings import Found
from shoal.evaluation.words import AnswerMatch

CLUSTER = "cluster"
BM25 = "bm25"


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningQuestion:
    """A question, the passages that answer it (the first is what is learned), its answers.

    `gold_keys` are the keys of every passage known to answer these words.
    """

    id: str
    text: str
    positives: tuple[Found, ...]
    answers: tuple[str, ...]
    gold_keys: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Negatives with the source that proposed each, and how many were left out, by reason."""

    negatives: tuple[tuple[str, Found], ...]
    left_out: Mapping[str, int]


def key_of(passage: Found) -> int:
    """Equal for passages of the same words."""
    return _key(passage.title, passage.text)


@lru_cache(maxsize=65_536)  # a passage is met for many questions
def _key(title: str, text: str) -> int:
    return text_key(f"{title} {text}")


def choose(
    question: MiningQuestion,
    found: Mapping[str, Sequence[Found]],
    *,
    n_negatives: int,
    margin: float | None,
) -> Choice:
    """The hard negatives of one question.

    Args:
        question: with what answers it.
        found: by source, hits with their texts, best first.
        n_negatives: how many at most.
        margin: a hit that the cluster scores above the positive's score less this is left out;
            None compares no scores.
    """
    hits = found.get(CLUSTER, ())
    # by words: another source may know the same passage by another id. Of twins the best counts
    scores: dict[int, float] = {}
    for hit in hits:
        scores.setdefault(key_of(hit), hit.score)
    bound = None if margin is None or not hits else _bound(question, hits, margin)
    match = AnswerMatch(question.answers)
    taken: set[int] = set()
    negatives: list[tuple[str, Found]] = []
    left_out: Counter[str] = Counter()
    turns = zip_longest(*([(source, hit) for hit in hits] for source, hits in found.items()))
    for source, hit in filter(None, chain.from_iterable(turns)):
        if len(negatives) == n_negatives:
            break
        key = key_of(hit)
        if key in taken:
            continue
        taken.add(key)
        if key in question.gold_keys:
            left_out["gold"] += 1
        elif match.found_in(hit.text):
            left_out["answer"] += 1
        elif bound is not None and scores.get(key, bound) > bound:
            left_out["margin"] += 1
        else:
            negatives.append((source, hit))
    return Choice(negatives=tuple(negatives), left_out=dict(left_out))


def _bound(question: MiningQuestion, hits: Sequence[Found], margin: float) -> float:
    """The highest score of a negative; below every hit where the positive is not among them."""
    positive = question.positives[0]
    key = key_of(positive)
    for hit in hits:
        if hit.id == positive.id or key_of(hit) == key:
            return hit.score - margin
    return float("-inf")
