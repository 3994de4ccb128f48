"""Answers found in passages as DPR counts them: by words, in order, whatever their case."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.evaluation.words import AnswerMatch, words


def slowly(text: str) -> list[str]:
    """DPR's description, character by character: the oracle."""
    found, run = [], ""
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM":
            run += character
            continue
        if run:
            found.append(run)
            run = ""
        if kind not in "ZC":
            found.append(character)
    return [word.lower() for word in [*found, run] if word]


@given(st.text(max_size=40))
def test_words_are_those_of_the_description(text):
    """Runs of letters, digits and marks; any other visible character alone; case ignored."""
    assert words(text) == slowly(text)


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_short_way_for_ascii_is_the_same(text):
    """Most texts are ASCII and take another expression, which must not differ."""
    assert words(text) == slowly(text)


@pytest.mark.parametrize(
    ("answer", "text", "is_there"),
    [
        ("1715", "between 1715, the year", True),
        ("715", "between 1715, the year", False),
        ("louis xiv", "that LOUIS  XIV died", True),
        ("louis xiv", "Louis the XIV", False),
        ("U.S.", "the U.S. Army", True),
        ("U.S.", "the US Army", False),
        ("Beyonc\u00e9", "when beyonce\u0301 sang", True),
        ("Beyonce", "when Beyonc\u00e9 sang", False),
        ("a_b", "x a_b y", True),
        ("", "anything", False),
        ("the end", "the end", True),
    ],
)
def test_an_answer_is_its_words_in_a_row(answer, text, is_there):
    """Whole words, in order, side by side; accents count, however they are encoded."""
    assert AnswerMatch([answer]).found_in(text) is is_there


def test_any_answer_will_do():
    """A question may have several answers; one of them is enough."""
    assert AnswerMatch(["nowhere", "died"]).found_in("He died.")
    assert not AnswerMatch([])
