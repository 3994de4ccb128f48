"""Cut a section's text into passages of about 100 words, at sentence ends. Pure.

Rule: nothing but whitespace at the cuts is lost, and the pieces are of like length: the wanted cut
points lie evenly, and each goes to the nearest sentence end.
"""

import re
from bisect import bisect_left
from itertools import accumulate, pairwise

WORDS_A_PASSAGE = 100

# Han, kana and hangul have no spaces: each character counts as a word. Other words are cut at 64
# characters, so that no run without spaces makes an endless passage.
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]{{1,64}}")
_SENTENCE_END = re.compile(
    r"""[.!?]["')\]]*\s+ | [。！？]\s* | \n[ \t]*\n\s*""",  # noqa: RUF001  # full-width stops are meant
    re.VERBOSE,
)


def count_words(text: str) -> int:
    """Words as the cutting counts them: a CJK character is one, a long run several."""
    return sum(1 for _ in _WORD.finditer(text))


def cut(text: str, n_words: int = WORDS_A_PASSAGE) -> list[str]:
    """Pieces of `text` of about `n_words` words and at most 2.5 times as many, in order.

    A text below 1.5 x `n_words` words stays whole; one without words gives no piece.
    """
    units = [part for sentence in _sentences(text) for part in _limit(sentence, n_words)]
    totals = list(accumulate(count_words(unit) for unit in units))
    if not totals:
        return []
    n_pieces = max(1, round(totals[-1] / n_words))
    ends = {_nearest(totals, totals[-1] * piece / n_pieces) for piece in range(1, n_pieces)}
    edges = [0, *sorted(ends - {0, len(units)}), len(units)]
    pieces = ("".join(units[a:b]).strip() for a, b in pairwise(edges))
    return [piece for piece in pieces if piece]


def _sentences(text: str) -> list[str]:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    edges = [0, *ends, len(text)]
    return [text[a:b] for a, b in pairwise(edges) if text[a:b].strip()]


def _limit(sentence: str, n_words: int) -> list[str]:
    """The sentence, cut between words where it has more than `n_words`."""
    starts = [match.start() for match in _WORD.finditer(sentence)]
    edges = [0, *starts[n_words::n_words], len(sentence)]
    return [sentence[a:b] for a, b in pairwise(edges)]


def _nearest(totals: list[int], wanted: float) -> int:
    """How many units to take so that their words come nearest to `wanted`."""
    after = bisect_left(totals, wanted)
    before_words = totals[after - 1] if after else 0
    return after if wanted - before_words <= totals[after] - wanted else after + 1
