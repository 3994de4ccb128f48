"""Query and qrels files: JSONL and TSV, TSV and TREC, plain or gzipped.

Rule: a line that can't be read is one CorpusError that begins with file:line; nothing is skipped.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shoal.errors import CorpusError

_QUERIES = ("queries.jsonl", "queries.jsonl.gz", "queries.tsv", "queries.tsv.gz")
_RELEVANCE_HEADERS = {"score", "relevance", "rel", "label", "grade", "judgment", "judgement"}
"""What stands over the last column where the first line is a header; any other word is a fault."""


class Judgment(NamedTuple):
    """How relevant a passage is to a query; 0 is not at all."""

    query_id: str
    passage_id: str
    relevance: int


def beir_files(folder: Path, split: str) -> tuple[Path, Path]:
    """The files of a BEIR folder's queries and of its judgments: qrels.tsv, else qrels/<split>.tsv.

    Raises:
        CorpusError: it lacks one of them.
    """
    forms = ("qrels.tsv", f"qrels/{split}.tsv")
    qrels = [f"{form}{end}" for form in forms for end in ("", ".gz")]
    return _one_of(folder, _QUERIES), _one_of(folder, qrels)


def read_queries(path: Path) -> dict[str, str]:
    """Texts by query id, in the file's order.

    JSONL has objects with `_id` or `id` and `text` or `query`; TSV has two columns, id and text,
    with or without a header.

    Raises:
        CorpusError: beginning with file:line.
    """
    queries: dict[str, str] = {}
    for where, line in lines_of(path):
        if line.startswith("{"):
            query_id, text = _json_query(where, line)
        else:
            columns = line.split("\t")
            if len(columns) != 2:
                raise CorpusError(
                    f"{where}: {len(columns)} columns; a query is 'id TAB text' or a JSON object"
                )
            query_id, text = columns
            if not queries and text in {"text", "query"}:
                continue  # the header
        if not text.strip():
            raise CorpusError(f"{where}: query {query_id!r} has no text")
        if query_id in queries:
            raise CorpusError(f"{where}: query id {query_id!r} was seen before")
        queries[query_id] = text
    if not queries:
        raise CorpusError(f"{path}:1: no queries")
    return queries


def read_qrels(path: Path) -> list[Judgment]:
    """Judgments, from `query-id, passage-id, relevance` (TSV, with or without a header) or TREC's
    `query-id, iteration, passage-id, relevance`.

    Raises:
        CorpusError: beginning with file:line.
    """
    judgments: list[Judgment] = []
    grades: dict[tuple[str, str], int] = {}
    is_first = True
    for where, line in lines_of(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) not in {3, 4}:
            raise CorpusError(
                f"{where}: {len(columns)} columns; a judgment is 'query-id, passage-id, relevance' "
                "or TREC's 'query-id, iteration, passage-id, relevance'"
            )
        query_id, passage_id, relevance = columns[0], columns[-2], columns[-1]
        try:
            judgment = Judgment(query_id, passage_id, int(relevance))
            before = grades.setdefault((query_id, passage_id), judgment.relevance)
            if before != judgment.relevance:
                raise CorpusError(
                    f"{where}: query {query_id!r} and passage {passage_id!r} were judged {before} "
                    f"before, and are {judgment.relevance} here"
                )
            judgments.append(judgment)
        except ValueError:
            if not is_first or relevance.lower() not in _RELEVANCE_HEADERS:
                raise CorpusError(
                    f"{where}: relevance is {relevance!r}, not a whole number"
                ) from None
        is_first = False
    if not judgments:
        raise CorpusError(f"{path}:1: no judgments")
    return judgments


def _json_query(where: str, line: str) -> tuple[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as failure:
        raise CorpusError(f"{where}: not valid JSON: {failure}") from failure
    query_id = value.get("_id", value.get("id"))
    text = value.get("text", value.get("query"))
    if not isinstance(query_id, str | int) or not isinstance(text, str):
        raise CorpusError(f"{where}: a query needs an '_id' and a 'text'")
    check_unicode(where, f"{query_id}{text}")
    return str(query_id), text


def check_unicode(where: str, text: str) -> None:
    """CorpusError where JSON's escapes made half a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        lone = hex(ord(failure.object[failure.start]))
        raise CorpusError(f"{where}: holds half a surrogate pair ({lone})") from None


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that isn't empty, with where it stands: a plain or gzipped file, UTF-8.

    Raises:
        CorpusError: beginning with file:line.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield f"{path}:{number}", line
    except UnicodeDecodeError as failure:
        raise CorpusError(f"{path}:{number}: not UTF-8: {failure.reason}") from failure
    except (OSError, EOFError, zlib.error) as failure:
        reason = getattr(failure, "strerror", None) or failure
        where = f"{path}:{number + 1}" if number else f"{path}"
        raise CorpusError(f"{where}: can't be read: {reason}") from failure


def _one_of(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CorpusError(f"{folder}: has no {names[0]} (nor {', '.join(names[1:])})")
