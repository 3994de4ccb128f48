"""Cutting loses no word, keeps to its bounds and prefers sentence ends."""

import re

from hypothesis import given
from hypothesis import strategies as st

from shard_server.building.chunk import count_words, cut

SENTENCES = st.lists(
    st.lists(st.sampled_from(["word", "wörter", "x", "a-b", "'quoted'", "3.14"]), max_size=40).map(
        lambda words: " ".join(words) + "."
    ),
    max_size=40,
).map(" ".join)
ANYTHING = st.text(max_size=400) | SENTENCES | st.text(alphabet="漢字かな。 a.\n", max_size=600)


def squeeze(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(ANYTHING, st.integers(1, 30))
def test_no_text_is_lost(text: str, n_words: int) -> None:
    """The pieces together are the text, but for whitespace."""
    assert squeeze("".join(cut(text, n_words))) == squeeze(text)


@given(ANYTHING, st.integers(1, 30))
def test_pieces_keep_to_their_size(text: str, n_words: int) -> None:
    """No piece is empty and none has more than 2.5 times the wanted words."""
    for piece in cut(text, n_words):
        assert piece.strip()
        assert count_words(piece) <= 2.5 * n_words


@given(SENTENCES)
def test_cuts_fall_at_sentence_ends(text: str) -> None:
    """Where sentences are shorter than a passage, every piece ends with one."""
    assert all(piece.endswith(".") for piece in cut(text, 100))


def test_pieces_are_of_like_length() -> None:
    """No crumb is left at the end: 250 words are two or three pieces of about 100."""
    text = " ".join(f"This is sentence number {n}." for n in range(50))
    sizes = [count_words(piece) for piece in cut(text, 100)]
    assert sum(sizes) == 250
    assert len(sizes) == 2
    assert max(sizes) - min(sizes) <= 5


def test_a_run_without_spaces_is_cut() -> None:
    """A megabyte of base64 or of Chinese becomes passages, not one endless word."""
    assert len(cut("A" * 64_000, 100)) == 10
    assert len(cut("漢" * 1_000, 100)) == 10


def test_whitespace_gives_no_piece() -> None:
    """An empty section is no passage."""
    assert cut(" \n\t ") == []
