"""Documents become passages that stay within their sections and say where they are from."""

from pathlib import Path

import pytest

from shard_server.building import read_corpus
from shard_server.building.documents import (
    Section,
    split_html,
    split_markdown,
    split_plain,
    split_rst,
)
from shoal.errors import CorpusError


def outline(sections: list[Section]) -> list[tuple[int, str, str]]:
    return [(s.level, s.heading, " ".join(s.text.split())) for s in sections]


def test_markdown_headings_begin_sections() -> None:
    """Both kinds of headings count, those inside fenced code don't."""
    text = "intro\n# One #\nfirst\n```sh\n# no heading\n```\nTwo\n---\nsecond\n### Three\n"
    assert outline(split_markdown(text)) == [
        (0, "", "intro"),
        (1, "One", "first ```sh # no heading ```"),
        (2, "Two", "second"),
        (3, "Three", ""),
    ]


def test_markdown_rules_are_no_headings() -> None:
    """A line of dashes under a blank line is a rule."""
    assert outline(split_markdown("a\n\n---\n\nb")) == [(0, "", "a --- b")]


def test_rst_levels_follow_their_first_use() -> None:
    """The first adornment is the highest level; overlines belong to the title."""
    text = "=====\nTitle\n=====\n\nintro\n\nPart\n----\n\none\n\nOther\n=====\n\ntwo\n"
    assert outline(split_rst(text)) == [
        (1, "Title", "intro"),
        (2, "Part", "one"),
        (1, "Other", "two"),
    ]


def test_html_keeps_text_and_drops_scripts() -> None:
    """Headings make sections, blocks keep words apart, entities are characters."""
    text = (
        "<html><head><title>Page</title><style>p {}</style></head><body><h1>Top</h1>"
        "<p>one &amp; <b>t</b>wo</p><p>three</p><script>no()</script><h2>Sub</h2><pre>a\n  b</pre>"
    )
    assert outline(split_html(text)) == [
        (0, "Page", ""),
        (1, "Top", "one & two three"),
        (2, "Sub", "a b"),
    ]
    assert "a\n  b" in split_html(text)[2].text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a<![if x]>b<![endif]>c", "abc"),
        ("a<![x[y]]>b", "ab"),
        ("a&#65;&#0000065;&#65 b", "aAAA b"),
        (f"a&#{'0' * 5_000}65;b", "aAb"),
        (f"a&#{'9' * 5_000};b", "a\ufffdb"),
    ],
)
def test_html_that_browsers_take_is_taken(text: str, read: str) -> None:
    """Marked sections are comments, and a reference may have any number of digits."""
    assert outline(split_html(text)) == [(0, "", read)]


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    """Linux takes any bytes for a name, and a passage's id none but UTF-8."""
    (tmp_path / "\udcff.txt").write_text("words")
    with pytest.raises(CorpusError, match="half a surrogate pair"):
        list(read_corpus(str(tmp_path)))


def test_plain_text_is_one_section() -> None:
    """Nothing in plain text can be told to be a heading."""
    assert outline(split_plain("Title\n=====\ntext")) == [(0, "", "Title ===== text")]


def test_a_tree_is_read_in_order_with_titles_and_sources(tmp_path: Path) -> None:
    """Titles lead down the headings, ids and sources are paths, hidden files stay out."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.md").write_text("# Guide\n\nHello there.\n\n## Setup\n\nDo this.\n")
    (tmp_path / "b/plain.txt").write_text("Some plain words.")
    (tmp_path / "b/empty.rst").write_text("\n")
    (tmp_path / "b/image.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("secret")
    passages = list(read_corpus(str(tmp_path)))
    assert [(p.id, p.title, p.text, p.metadata["source"]) for p in passages] == [
        ("a.md#1", "Guide", "Hello there.", "a.md"),
        ("a.md#2", "Guide / Setup", "Do this.", "a.md"),
        ("b/plain.txt#1", "plain", "Some plain words.", "b/plain.txt"),
    ]


@pytest.mark.parametrize("suffix", [".md", ".rst", ".txt", ".html"])
def test_long_sections_are_cut(tmp_path: Path, suffix: str) -> None:
    """A section of 1,000 words becomes ten passages, all its words among them."""
    words = [f"w{number}" for number in range(1_000)]
    text = " ".join(word + "." if n % 10 == 9 else word for n, word in enumerate(words))
    (tmp_path / f"long{suffix}").write_text(text)
    passages = list(read_corpus(str(tmp_path / f"long{suffix}")))
    assert len(passages) == 10
    assert " ".join(p.text for p in passages).split() == text.split()
