"""What a dual encoder learns from: questions, each with a passage that answers it.

Rule: passages are told apart by their words and not by their ids, so that a copy under another id
is never taken for a negative. Pure; must not know which file a pair came from.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.errors import CorpusError


@dataclass(frozen=True, slots=True)
class PassageText:
    """A passage as a tower reads it; `key` is equal for equal words."""

    title: str
    text: str

    @property
    def key(self) -> int:
        """64 bits of BLAKE2b over the words, as `text_key` reads them."""
        return text_key(f"{self.title} {self.text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPair:
    """A question with one passage that answers it.

    `gold_keys` are the keys of every passage that is known to answer it, the positive's among
    them; `group` names what it belongs to (an article), empty where nothing is known.
    """

    question: str
    positive: PassageText
    positive_key: int
    hard_negatives: tuple[PassageText, ...] = ()
    gold_keys: frozenset[int]
    group: str = ""


def text_key(text: str) -> int:
    """Equal for texts of the same words in the same order, whatever their case and spacing, and
    however Unicode writes their letters (NFKC: composed or not, full-width, ligatures).
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big")


def make_pair(
    question: str,
    positive: PassageText,
    *,
    golds: Iterable[PassageText] = (),
    hard_negatives: Sequence[PassageText] = (),
    group: str | None = None,
) -> TrainingPair:
    """A pair; hard negatives that are gold passages in other clothes are left out.

    The group is the positive's title where none is given.
    """
    positive_key = positive.key
    gold_keys = frozenset({positive_key, *(gold.key for gold in golds)})
    return TrainingPair(
        question=question,
        positive=positive,
        positive_key=positive_key,
        hard_negatives=tuple(p for p in hard_negatives if p.key not in gold_keys),
        gold_keys=gold_keys,
        group=positive.title if group is None else group,
    )


def share_golds(pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
    """The same pairs, each knowing the gold passages of every question of the same words."""
    golds: dict[int, frozenset[int]] = {}
    keys = [text_key(pair.question) for pair in pairs]
    for key, pair in zip(keys, pairs, strict=True):
        golds[key] = golds.get(key, frozenset()) | pair.gold_keys
    shared = []
    for key, pair in zip(keys, pairs, strict=True):
        if golds[key] == pair.gold_keys:
            shared.append(pair)
            continue
        negatives = tuple(p for p in pair.hard_negatives if p.key not in golds[key])
        shared.append(replace(pair, gold_keys=golds[key], hard_negatives=negatives))
    return shared


def pairs_of_judgments(
    queries: Mapping[str, str],
    judged: Iterable[tuple[str, str]],
    passages: Mapping[str, PassageText],
    where: str,
) -> list[TrainingPair]:
    """One pair a judged (query id, passage id), in their order.

    Raises:
        CorpusError: an id without its text, naming it and `where`.
    """
    judged = list(judged)
    golds: dict[str, list[PassageText]] = {}
    for query_id, passage_id in judged:
        if query_id not in queries:
            raise CorpusError(f"{where}: query {query_id!r} is judged, but its text is missing")
        if passage_id not in passages:
            raise CorpusError(
                f"{where}: passage {passage_id!r} is judged, but the corpus hasn't it; name the "
                "corpus as --data QUESTIONS,CORPUS"
            )
        golds.setdefault(query_id, []).append(passages[passage_id])
    return [
        make_pair(queries[query_id], passages[passage_id], golds=golds[query_id])
        for query_id, passage_id in judged
    ]
