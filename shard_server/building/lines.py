"""Corpora of lines: JSONL and TSV, plain or gzipped.

Rule: bytes are decoded line by line, so that every fault has its line. Must not know what a passage
may hold; `passage` decides that.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from shard_server.building.passage import Passage, passage_from_record
from shoal.errors import CorpusError

MAX_LINE_BYTES = 16 << 20


def open_plain(path: Path) -> BinaryIO:
    """The file's bytes, decompressed where its name ends in .gz; CorpusError if it can't open."""
    try:
        if path.suffix.lower() == ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its number, from 1, without a byte order mark; CorpusError at a fault."""
    number = 0
    with open_plain(path) as file:
        try:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    raise CorpusError(f"{path}:{number}: the line exceeds {MAX_LINE_BYTES:,} bytes")
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = error.object[error.start]
            raise CorpusError(
                f"{path}:{number}: not UTF-8: byte 0x{bad:02x} at {error.start}; convert the file"
            ) from None
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise CorpusError(f"{path}:{number + 1}: broken gzip: {error}") from None
        except OSError as error:
            raise CorpusError(f"{path}:{number + 1}: can't be read: {error.strerror}") from error


def read_jsonl(path: Path) -> Iterator[Passage]:
    """One JSON object a line; blank lines are passed over."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}")
        yield passage_from_record(record, where)


def read_tsv(path: Path) -> Iterator[Passage]:
    """Tab-separated with a header naming id, text and title in any order; quoted as Excel does.

    DPR's psgs_w100.tsv is of this form. Further columns are metadata of type string.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader((line for _, line in read_lines(path)), "excel-tab", strict=True)
    header: list[str] = []
    while True:
        number = rows.line_num + 1
        where = f"{path}:{number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(
                f"{where}: {error}; a field with quotes must be quoted whole, its quotes doubled"
            ) from None
        if not row:
            continue
        if not header:
            header = _check_header(row, where)
            continue
        if len(row) != len(header):
            raise CorpusError(f"{where}: {len(row)} columns, the header has {len(header)}")
        yield passage_from_record(dict(zip(header, row, strict=True)), where)


def _check_header(row: list[str], where: str) -> list[str]:
    names = [name.strip() for name in row]
    if not {"id", "_id"} & set(names) or not {"text", "contents"} & set(names):
        raise CorpusError(f"{where}: the first line must name the columns id, text, title")
    if len(set(names)) != len(names):
        raise CorpusError(f"{where}: a column is named twice: {names}")
    return names


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
