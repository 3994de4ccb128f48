"""Every format gives the same passages, and every fault one error with its file and line."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shard_server.building import Passage, read_corpus
from shard_server.building.passage import MetadataColumns, check_passage
from shoal.errors import CorpusError

RECORDS = [
    {"id": "1", "title": "Homer", "text": 'He wrote "the Iliad".'},
    {"id": "2", "title": "", "text": "A tab\tand a\nnewline, ünïcode 漢字."},
    {"id": "3", "title": "Ovid", "text": "Metamorphoses"},
]


def plain(passages: list[Passage]) -> list[dict[str, str]]:
    return [{"id": p.id, "title": p.title, "text": p.text} for p in passages]


def write_lines(path: Path, *lines: object) -> Path:
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text, encoding="utf-8")
    return path


def write_records(folder: Path, kind: str) -> Path:
    path = folder / f"corpus.{kind}"
    if kind.startswith("jsonl"):
        content = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    elif kind.startswith("tsv"):
        table = folder / "table"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "text", "title"], dialect="excel-tab")
            writer.writeheader()
            writer.writerows(RECORDS)
        content = table.read_bytes()
        table.unlink()
    else:
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
        return path
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "tsv", "tsv.gz", "parquet"])
def test_every_format_gives_the_same_passages(tmp_path: Path, kind: str) -> None:
    """The format is a matter of storage, not of content; a folder of the file is the file."""
    path = write_records(tmp_path, kind)
    assert plain(list(read_corpus(str(path)))) == RECORDS
    assert plain(list(read_corpus(str(tmp_path)))) == RECORDS


def test_jsonl_takes_beir_and_pyserini_names(tmp_path: Path) -> None:
    """`_id` and `contents` are other names; other fields and `metadata` are metadata."""
    path = write_lines(
        tmp_path / "c.jsonl",
        "\ufeff" + json.dumps({"_id": "a", "text": "x", "metadata": {"year": 1, "url": None}}),
        "",
        {"id": 7, "contents": "y", "lang": "en", "tags": ["a"], "title": None},
    )
    first, second = read_corpus(str(path))
    assert (first.id, first.metadata, first.where) == ("a", {"year": 1}, f"{path}:1")
    assert (second.id, second.text, second.title) == ("7", "y", "")
    assert second.metadata == {"lang": "en", "tags": ["a"]}
    assert second.where == f"{path}:3"


def test_parquet_columns_are_typed_metadata(tmp_path: Path) -> None:
    """Integers, doubles, bools and lists of strings come over as they are."""
    record = {"_id": "a", "text": "x", "n": 3, "f": 0.5, "ok": True, "tags": ["p", "q"]}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "c.parquet")
    (passage,) = read_corpus(str(tmp_path / "c.parquet"))
    assert passage.metadata == {"n": 3, "f": 0.5, "ok": True, "tags": ["p", "q"]}


GOOD = {"id": "a", "text": "fine"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{not json", "not JSON"),
        ('{"id": "b", "text": NaN}', "not JSON: NaN"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object"),
        ({"text": "x"}, "no field '_id'"),
        ({"id": "", "text": "x"}, "id is empty"),
        ({"id": 1.5, "text": "x"}, "must be a string, not float"),
        ({"id": "b"}, "no field 'text'"),
        ({"id": "b", "text": " \n"}, "text of id 'b' is empty"),
        ({"id": "b", "text": ["x"]}, "'text' must be a string, not a list"),
        ({"id": "b", "text": "x", "title": 3}, "'title' must be a string, not int"),
        ({"id": "é" * 257, "text": "x"}, "id has 514 bytes, the most is 512"),
        ({"id": "b", "text": "x" * ((1 << 20) + 1)}, "text has 1,048,577 bytes"),
        ('{"id": "b", "text": "\\ud800"}', "half a surrogate pair"),
        ({"id": "b", "text": "x", "metadata": [1]}, "'metadata' must be an object, not a list"),
        ({"id": "b", "text": "x", "deep": {"a": 1}}, "metadata 'deep' is an object"),
        ({"id": "b", "text": "x", "big": 1 << 63}, "metadata 'big' is int"),
        ({"id": "b", "text": "x", "mixed": ["a", 1]}, "metadata 'mixed' is a list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, second: object, message: str) -> None:
    """The error begins with file:line and says what is wrong there."""
    path = write_lines(tmp_path / "c.jsonl", GOOD, second)
    with pytest.raises(CorpusError) as raised:
        list(read_corpus(str(path)))
    assert raised.value.message.startswith(f"{path}:2: ")
    assert message in raised.value.message
    assert len(raised.value.message) < 400


def test_bad_utf8_is_named(tmp_path: Path) -> None:
    """Latin-1 text is found at its line, in JSONL as in a document."""
    for name in ("c.jsonl", "c.txt", "c.tsv"):
        path = tmp_path / name
        path.write_bytes(b'{"id": "a", "text": "x"}\n{"id": "b", "text": "caf\xe9"}\n')
        if name == "c.tsv":
            path.write_bytes(b"id\ttext\nb\tcaf\xe9\n")
        with pytest.raises(CorpusError, match=f"{name}:2: not UTF-8: byte 0xe9"):
            list(read_corpus(str(path)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1\tsome text"], r":1: the first line must name the columns"),
        (["id\ttext\ttext", "1\ta\tb"], r":1: a column is named twice"),
        (["id\ttext\ttitle", "1\ta\tb", "2\tonly two"], r":3: 2 columns, the header has 3"),
        (["id\ttext", '1\t"open', "2\tx"], r":2: .*quote"),
        (["id\ttext", '1\t"quoted" and more'], r":2: .*quote"),
        (["id\ttext", "1\t"], r":2: the text of id '1' is empty"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    """Tables have more ways to be wrong: headers, columns and quotes."""
    path = write_lines(tmp_path / "c.tsv", *lines)
    with pytest.raises(CorpusError, match=message):
        list(read_corpus(str(path)))


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A truncated gzip, a Parquet that is none, and a Parquet row without text."""
    whole = gzip.compress(json.dumps(GOOD).encode() * 1_000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.jsonl.gz").write_bytes(b"no gzip at all")
    (tmp_path / "none.parquet").write_bytes(b"no parquet at all")
    pq.write_table(pa.Table.from_pylist([GOOD, {"id": "b", "text": None}]), tmp_path / "r.parquet")
    for name, message in (
        ("cut.jsonl.gz", ":1: broken gzip"),
        ("none.jsonl.gz", ":1: broken gzip"),
        ("none.parquet", ":1: not readable as Parquet"),
        ("r.parquet", ":2: no field 'text'"),
    ):
        with pytest.raises(CorpusError, match=name + message):
            list(read_corpus(str(tmp_path / name)))


def test_what_is_no_corpus_is_told_what_is(tmp_path: Path) -> None:
    """Missing, unknown and empty sources each say what --corpus takes."""
    (tmp_path / "c.docx").write_bytes(b"x")
    (tmp_path / "c.parquet.gz").write_bytes(b"x")
    write_lines(tmp_path / "empty.jsonl")
    for name, message in (
        ("absent.jsonl", "no such file or folder; --corpus takes"),
        ("c.docx", "unknown format; --corpus takes"),
        ("c.parquet.gz", "unknown format; --corpus takes"),
        ("empty.jsonl", "holds no passages"),
    ):
        with pytest.raises(CorpusError, match=message):
            list(read_corpus(str(tmp_path / name)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match="nothing to read in it"):
        list(read_corpus(str(tmp_path / "folder")))


def make(where: str, **metadata: object) -> Passage:
    passage = Passage(id="a", title="", text="x", metadata=metadata, where=where)
    check_passage(passage)
    return passage


def test_a_metadata_column_has_one_type() -> None:
    """Two types are refused with both places; integers among doubles are doubles."""
    columns = MetadataColumns()
    columns.meet(make("f:1", year=1999, score=1))
    columns.meet(make("f:2", score=0.5, tags=["a"]))
    assert columns.types == {"score": "double", "tags": "string_list", "year": "int64"}
    with pytest.raises(CorpusError, match="f:3: metadata 'year' is string here and int64 at f:1"):
        columns.meet(make("f:3", year="1999"))


def test_metadata_names_are_bounded() -> None:
    """Names made of values would give a column a passage."""
    columns = MetadataColumns()
    for number in range(256):
        columns.meet(make(f"f:{number}", **{f"name{number}": 1}))
    with pytest.raises(CorpusError, match="f:256: more than 256 metadata names"):
        columns.meet(make("f:256", one_more=1))
