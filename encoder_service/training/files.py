"""Training files: DPR's JSON and JSONL pairs.

Rule: a record that can't be used is one CorpusError that says which; nothing is skipped silently.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encoder_service.training.pairs import PassageText, TrainingPair, make_pair
from shoal.errors import CorpusError
from shoal.evaluation.files import check_unicode


def read_training_file(path: Path) -> list[TrainingPair]:
    """The pairs of a `.json` (DPR's) or `.jsonl` file, plain or gzipped.

    DPR's is a list of objects with `question`, `positive_ctxs` and `hard_negative_ctxs`, whose
    items have `title` and `text`: the first positive is learned, all of them are gold. A line of
    JSONL has `question` (or `query`, `anchor`), `positive` and, where there are hard negatives,
    `negatives` (or `negative`): strings, or objects with `title` and `text`.

    Raises:
        CorpusError: naming the file and the record.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return [_pair_of_line(record, where) for where, record in _jsonl(path)]
    if name.endswith(".json"):
        return [_pair_of_dpr(record, where) for where, record in _json_list(path)]
    raise CorpusError(f"{path}: training data is a BEIR folder, a DPR .json or a .jsonl of pairs")


def _pair_of_dpr(record: Any, where: str) -> TrainingPair:
    question = _text(record, ("question",), where)
    positives = _passages(record, "positive_ctxs", where)
    if not positives:
        raise CorpusError(f"{where}: no positive_ctxs; leave the question out")
    negatives = _passages(record, "hard_negative_ctxs", where)
    return make_pair(question, positives[0], golds=positives, hard_negatives=negatives)


def _pair_of_line(record: Any, where: str) -> TrainingPair:
    question = _text(record, ("question", "query", "anchor"), where)
    if "positive" not in record:
        raise CorpusError(f"{where}: no field 'positive'")
    positive = _passage(record["positive"], where)
    negatives = record.get("negatives", record.get("negative", []))
    listed = negatives if isinstance(negatives, list) else [negatives]
    return make_pair(question, positive, hard_negatives=[_passage(n, where) for n in listed])


def _passages(record: Any, name: str, where: str) -> list[PassageText]:
    items = record.get(name, [])
    if not isinstance(items, list):
        raise CorpusError(f"{where}: {name} must be a list")
    return [_passage(item, where) for item in items]


def _passage(value: Any, where: str) -> PassageText:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: a passage is a text or an object with title and text")
    title = value.get("title") or ""
    if not isinstance(title, str):
        raise CorpusError(f"{where}: a passage's title must be a text")
    check_unicode(where, title)
    return PassageText(title, _text(value, ("text",), where))


def _text(record: Any, names: tuple[str, ...], where: str) -> str:
    if not isinstance(record, dict):
        raise CorpusError(f"{where}: expected an object")
    value = next((record[name] for name in names if name in record), None)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{where}: no field {names[0]!r} with a text in it")
    check_unicode(where, value)
    return value


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(_bytes(path))
    except (ValueError, RecursionError) as failure:
        raise CorpusError(f"{path}: not JSON: {failure}") from failure
    if not isinstance(records, list):
        raise CorpusError(f"{path}: DPR's training data is a list of objects")
    for number, record in enumerate(records):
        yield f"{path}[{number}]", record


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as failure:
            raise CorpusError(f"{path}:{number}: not JSON: {failure}") from failure
        yield f"{path}:{number}", record


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise CorpusError(f"{path}: can't be read: {reason}") from failure
