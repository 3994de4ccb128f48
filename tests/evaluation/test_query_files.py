"""Queries and judgments from files, and what is said of a bad line."""

import gzip

import pytest

from shoal.errors import CorpusError
from shoal.evaluation.files import Judgment, read_qrels, read_queries


def written(tmp_path, name, text):
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.jsonl", '{"_id": "1", "text": "a b"}\n\n{"_id": "2", "text": "c"}\n'),
        ("q.jsonl.gz", '{"id": 1, "query": "a b"}\n{"id": 2, "query": "c"}'),
        ("q.tsv", "id\ttext\n1\ta b\n2\tc\n"),
        ("q.tsv.gz", "1\ta b\r\n2\tc\r\n"),
        ("q.bom.tsv", "\ufeff1\ta b\n2\tc\n"),
    ],
)
def test_queries_read_alike_in_every_form(tmp_path, name, text):
    """JSONL and TSV, plain and gzipped, with and without header, give the same queries."""
    assert read_queries(written(tmp_path, name, text)) == {"1": "a b", "2": "c"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.tsv", "query-id\tcorpus-id\tscore\n1\tp1\t1\n2\tp2\t0\n"),
        ("q.tsv.gz", "1\tp1\t1\n2\tp2\t0\n"),
        ("q.trec", "1 0 p1 1\n2 0 p2 0\n"),
    ],
)
def test_judgments_read_alike_in_every_form(tmp_path, name, text):
    """TSV with and without header, and TREC's four columns."""
    expected = [Judgment("1", "p1", 1), Judgment("2", "p2", 0)]
    assert read_qrels(written(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{"_id": "1", "text": "a"}\n{"_id": "2"\n', ":2", "not valid JSON"),
        ('{"_id": "1"}\n', ":1", "'_id' and a 'text'"),
        ('{"a":' * 5_000, ":1", "not valid JSON"),
        ('{"_id": "1", "text": "\\ud800"}', ":1", "half a surrogate pair"),
        ("1\ta\n1\tb\n", ":2", "seen before"),
        ("1\ta\tb\n", ":1", "3 columns"),
        ("1\t \n", ":1", "no text"),
        ("", ":1", "no queries"),
    ],
)
def test_a_bad_query_line_is_named(tmp_path, text, where, what):
    """The message begins with file:line."""
    path = written(tmp_path, "q.txt", text)
    with pytest.raises(CorpusError, match=what) as caught:
        read_queries(path)
    assert caught.value.message.startswith(f"{path}{where}")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("1\tp1\t1\n2\tp2\tyes\n", ":2", "whole number"),
        ("1\tp1\n", ":1", "2 columns"),
        ("1\tp1\tyes\n2\tp2\t1\n", ":1", "whole number"),
        ("1\tp1\t1.0\n2\tp2\t1\n", ":1", "whole number"),
        ("query\tpassage\tscore\n", ":1", "no judgments"),
        ("1\tp1\t1\n1\tp1\t1\n1\tp1\t0\n", ":3", "judged 1 before"),
    ],
)
def test_a_bad_judgment_is_named(tmp_path, text, where, what):
    """The message begins with file:line."""
    path = written(tmp_path, "q.tsv", text)
    with pytest.raises(CorpusError, match=what) as caught:
        read_qrels(path)
    assert caught.value.message.startswith(f"{path}{where}")


def test_unreadable_files_are_named(tmp_path):
    """A missing file, broken gzip and bytes that aren't UTF-8 are one line each."""
    with pytest.raises(CorpusError, match="No such file"):
        read_queries(tmp_path / "none.tsv")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"1\ta\n" * 100)[:-20])
    with pytest.raises(CorpusError, match=r"cut\.tsv\.gz"):
        read_queries(tmp_path / "cut.tsv.gz")
    (tmp_path / "latin.tsv").write_bytes(b"1\ta\n2\t\xe9\n")
    with pytest.raises(CorpusError, match=r"latin\.tsv:2: not UTF-8"):
        read_queries(tmp_path / "latin.tsv")
