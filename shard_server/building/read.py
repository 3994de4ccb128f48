"""Read a corpus of any kind that `--corpus` takes, as a stream of checked passages.

Rule: one passage at a time, in a fixed order, and the first fault ends the reading with one error
that names file and line. Must not know what becomes of the passages.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from shard_server.building.documents import DOCUMENT_SUFFIXES, read_document
from shard_server.building.lines import read_jsonl, read_tsv
from shard_server.building.parquet import read_parquet
from shard_server.building.passage import Passage
from shard_server.building.python_docs import read_python_docs
from shoal.errors import CorpusError

PYTHON_DOCS = "python-docs"

_TABLES: dict[str, Callable[[Path], Iterator[Passage]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
_TAKES = (
    "a .jsonl, .tsv or .parquet file, a BEIR folder (corpus.jsonl), a folder of such files or of "
    ".md, .rst, .txt or .html documents (all but .parquet also as .gz), or the word python-docs"
)


def read_corpus(source: str) -> Iterator[Passage]:
    """The passages of `source`: a file, a folder or the word `python-docs`.

    Raises:
        CorpusError: at the first fault, beginning with file:line; also for an empty corpus.
    """
    passages = read_python_docs() if source == PYTHON_DOCS else _read_path(Path(source))
    n_passages = 0
    for passage in passages:
        n_passages += 1
        yield passage
    if not n_passages:
        raise CorpusError(f"{source}: holds no passages")


def _read_path(path: Path) -> Iterator[Passage]:
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder; --corpus takes {_TAKES}")
    kind = _kind(path)
    if kind in _TABLES:
        return _TABLES[kind](path)
    if kind in DOCUMENT_SUFFIXES:
        return read_document(path, path.name)
    raise CorpusError(f"{path}: unknown format; --corpus takes {_TAKES}")


def _read_folder(folder: Path) -> Iterator[Passage]:
    for name in ("corpus.jsonl", "corpus.jsonl.gz"):
        if (folder / name).is_file():
            return read_jsonl(folder / name)
    files = list(_walk(folder))
    tables = [path for path in files if _kind(path) in _TABLES and path.parent == folder]
    documents = [path for path in files if _kind(path) in DOCUMENT_SUFFIXES]
    # A README beside tables describes them; a stray table deep in a tree of documents is data.
    if tables:
        return (passage for path in tables for passage in _TABLES[_kind(path)](path))
    if documents:
        return (
            passage
            for path in documents
            for passage in read_document(path, path.relative_to(folder).as_posix())
        )
    raise CorpusError(f"{folder}: nothing to read in it; --corpus takes {_TAKES}")


def _walk(folder: Path) -> Iterator[Path]:
    """Visible files under `folder`, by name, not following links to folders."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        return suffixes[0] if len(suffixes) == 2 and suffixes[0] != ".parquet" else ".gz"
    return suffixes[-1] if suffixes else ""
