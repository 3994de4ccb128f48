"""Documents (.md, .rst, .txt, .html) into sections, and sections into passages.

Rule: a passage never crosses a heading; its title is the document's with its headings, its metadata
`source` is the path. Markup that carries no text goes, all text stays.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from shard_server.building.chunk import cut
from shard_server.building.lines import read_lines
from shard_server.building.passage import MAX_TITLE_BYTES, Passage, check_passage

_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_ATX_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
_SETEXT_UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")
_RST_ADORNMENT = re.compile(r"^([!-/:-@\[-`{-~])\1{2,}\s*$")
_HTML_BLOCK_NAMES = """
    address article aside blockquote br caption dd div dl dt figcaption figure footer form header
    hr li main nav ol p pre section table td th tr ul
"""
_HTML_BLOCKS = frozenset(_HTML_BLOCK_NAMES.split())

_DECIMAL_REFERENCE = re.compile(r"&#0*([0-9]+);?")
_MOST_DIGITS = 7  # 1,114,111 is the last code point
_HTML_SILENT = frozenset({"script", "style", "noscript", "template", "svg"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Text under one heading; `level` is 1 for the document's own, 0 before any heading."""

    level: int
    heading: str
    text: str


def read_document(path: Path, source: str) -> Iterator[Passage]:
    """The passages of one document; `source` is its path as ids and metadata give it."""
    text = "".join(line for _, line in read_lines(path)).replace("\r\n", "\n")
    name = path.name.removesuffix(".gz")
    headings: list[tuple[int, str]] = []
    number = 0
    for section in DOCUMENT_SUFFIXES[Path(name).suffix.lower()](text):
        headings = [above for above in headings if above[0] < section.level]
        headings += [(section.level, section.heading)] if section.heading else []
        title = " / ".join(heading for _, heading in headings) or Path(name).stem
        for piece in cut(section.text):
            number += 1
            passage = Passage(
                id=f"{source}#{number}",
                # a file's name may be no text: the id has it too, and is refused for it below
                title=title.encode(errors="replace")[:MAX_TITLE_BYTES].decode(errors="ignore"),
                text=piece,
                metadata={"source": source},
                where=str(path),
            )
            check_passage(passage)
            yield passage


def split_plain(text: str) -> list[Section]:
    """One section: plain text has no headings that could be told."""
    return [Section(level=0, heading="", text=text)]


def split_markdown(text: str) -> list[Section]:
    """Sections by `#` and underlined headings outside fenced code."""
    sections = _Sections()
    fence = ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        atx, underline = _ATX_HEADING.match(line), _SETEXT_UNDERLINE.match(line)
        if fence or not (atx or underline):
            sections.add(line)
        elif atx:
            sections.begin(len(atx[1]), atx[2])
        elif underline and not sections.begin_with_last(1 if underline[1][0] == "=" else 2):
            sections.add(line)
    return sections.finish()


def split_rst(text: str) -> list[Section]:
    """Sections by underlined titles; the first adornment met is the highest level."""
    sections = _Sections()
    levels: list[str] = []
    for line in text.split("\n"):
        adornment = _RST_ADORNMENT.match(line)
        title = sections.last.strip()
        is_title = bool(title) and not _RST_ADORNMENT.match(title)
        if not (adornment and is_title and len(line.rstrip()) >= len(title)):
            sections.add(line)
            continue
        if adornment[1] not in levels:
            levels.append(adornment[1])
        sections.begin_with_last(1 + levels.index(adornment[1]), overline=line.strip())
    return sections.finish()


def split_html(text: str) -> list[Section]:
    """Sections by h1 to h6; scripts and styles are no text."""
    parser = _HtmlSections()
    parser.feed(_DECIMAL_REFERENCE.sub(_short_reference, text))
    parser.close()
    return parser.finish()


def _short_reference(match: re.Match[str]) -> str:
    """`&#65;` for `&#00065`; no letter has so many digits as make `int` refuse them."""
    digits = match[1]
    return f"&#{digits};" if len(digits) <= _MOST_DIGITS else "\ufffd"


class _Sections:
    """Collects lines under the heading that stands above them."""

    def __init__(self) -> None:
        self._done: list[Section] = []
        self._level, self._heading = 0, ""
        self._lines: list[str] = []

    @property
    def last(self) -> str:
        """The line above, blank after a heading."""
        return self._lines[-1] if self._lines else ""

    def add(self, line: str) -> None:
        self._lines.append(line)

    def begin(self, level: int, heading: str) -> None:
        self._close()
        self._level, self._heading = level, " ".join(heading.split())

    def begin_with_last(self, level: int, *, overline: str = "") -> bool:
        """Make the line above a heading, and drop an `overline` over it; False if it is blank."""
        if not self.last.strip():
            return False
        heading = self._lines.pop().strip()
        if overline and self.last.strip() == overline:
            self._lines.pop()
        self.begin(level, heading)
        return True

    def finish(self) -> list[Section]:
        self._close()
        return self._done

    def _close(self) -> None:
        text = "\n".join(self._lines)
        # A heading without text still names what lies below it.
        if text.strip() or self._heading:
            self._done.append(Section(level=self._level, heading=self._heading, text=text))
        self._lines = []


class _HtmlSections(HTMLParser):
    """Walks the tags; text outside `pre` has its whitespace folded."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._sections = _Sections()
        self._text: list[str] = []
        self._silent = self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the base's
        if tag in _HTML_SILENT:
            self._silent += 1
        elif tag in _HTML_BLOCKS or _level(tag) or tag == "title":
            self._flush()
            self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _HTML_SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag == "title" or _level(tag):
            heading = "".join(self._text)
            self._text = []
            if heading.strip():
                self._sections.begin(_level(tag), heading)
        elif tag in _HTML_BLOCKS:
            self._flush()
            self._pre = max(0, self._pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._text.append(data if self._pre else re.sub(r"\s+", " ", data))

    def parse_marked_section(self, i: int, report: int = 1) -> int:  # noqa: ARG002  # the base's
        """`<![...>`: a comment, as the HTML standard has it; the base asserts that it is SGML."""
        return self.parse_bogus_comment(i)

    def finish(self) -> list[Section]:
        self._flush()
        return self._sections.finish()

    def _flush(self) -> None:
        text = "".join(self._text)
        self._text = []
        if text.strip():
            self._sections.add(text if self._pre else text.strip() + "\n")


def _level(tag: str) -> int:
    """1 to 6 for h1 to h6, else 0: a <title> stands above them all."""
    return int(tag[1]) if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456" else 0


DOCUMENT_SUFFIXES: dict[str, Callable[[str], list[Section]]] = {
    ".md": split_markdown,
    ".markdown": split_markdown,
    ".rst": split_rst,
    ".txt": split_plain,
    ".html": split_html,
    ".htm": split_html,
}
