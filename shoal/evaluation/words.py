"""Whether a passage holds an answer, as DPR counts it. Pure.

Karpukhin et al. 2020 (arXiv:2004.04906) count a passage as right that contains an answer string:
both are brought to Unicode NFD and cut into words, case is ignored, and the answer's words must
follow each other in the passage's. A word is a run of letters, digits and marks; every other
character that is neither white space nor a control character is a word of its own.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")


def words(text: str) -> list[str]:
    """The words of `text`, in lower case."""
    if text.isascii():
        return [word.lower() for word in _ASCII_WORD.findall(text)]
    return [word.lower() for word in _any_word().findall(unicodedata.normalize("NFD", text))]


class AnswerMatch:
    """The answers to one question, ready to be looked for in many passages."""

    def __init__(self, answers: Iterable[str]) -> None:
        # no word has a space in it, so words between spaces follow each other as substrings do
        self._needles = tuple(needle for answer in answers if (needle := _spaced(answer)).strip())

    def __bool__(self) -> bool:
        return bool(self._needles)

    def found_in(self, text: str) -> bool:
        """Whether any answer's words follow each other in the words of `text`."""
        if not self._needles:
            return False
        hay = _spaced(text)
        return any(needle in hay for needle in self._needles)


@lru_cache(maxsize=65_536)
def _spaced(text: str) -> str:
    return f" {' '.join(words(text))} "


@lru_cache(maxsize=1)
def _any_word() -> re.Pattern[str]:
    """Python's `re` has no Unicode categories: classes of ranges, made once in some 0.3 s."""
    in_word, blank = _ranges("LNM"), _ranges("ZC")
    return re.compile(f"[{in_word}]+|[^{in_word}{blank}]")


def _ranges(kinds: str) -> str:
    """The characters whose category begins with one of `kinds`, as the inside of a class."""
    found: list[str] = []
    begun: int | None = None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] in kinds
        if inside and begun is None:
            begun = code
        elif not inside and begun is not None:
            found.append(f"\\U{begun:08x}-\\U{code - 1:08x}")
            begun = None
    return "".join(found)
