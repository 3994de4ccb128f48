"""What is asked: questions with what answers them, from a BEIR folder, single files, or DPR's JSON.

Rule: a record that can't be used is one CorpusError; a question that nothing judges is left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import CorpusError
from shoal.evaluation.files import (
    Judgment,
    beir_files,
    check_unicode,
    lines_of,
    read_qrels,
    read_queries,
)
from shoal.evaluation.words import AnswerMatch

_DPR_ID = ("passage_id", "psg_id", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """Questions by id, the passages judged for them, and their answers where those are known."""

    name: str
    queries: Mapping[str, str]
    qrels: Sequence[Judgment]
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """Ids of the questions to ask, in the order of the judgments: those judged, else those
        with answers.

        Raises:
            CorpusError: one of them has no text.
        """
        ids = list(dict.fromkeys(j.query_id for j in self.qrels)) or list(self.answers)
        for query_id in ids:
            if query_id not in self.queries:
                raise CorpusError(
                    f"query {query_id!r} is judged, but the queries' file hasn't its text"
                )
        return ids


def read_set(path: Path, name: str = "", *, split: str = "test") -> QuestionSet:
    """A BEIR folder's questions, or those of DPR's JSON.

    The folder's judgments are qrels.tsv, else qrels/<split>.tsv.

    Raises:
        CorpusError: naming what is missing or broken.
    """
    if path.is_dir():
        return read_files(*beir_files(path, split), name or path.resolve().name)
    if path.name.removesuffix(".gz").endswith(".json"):
        return _read_dpr(path, name or path.name.partition(".")[0])
    raise CorpusError(f"{path}: a set is a BEIR folder (queries.jsonl, qrels.tsv) or DPR's .json")


def read_files(queries: Path, qrels: Path | None, name: str = "") -> QuestionSet:
    """A set of two files; without judgments, the questions that have answers.

    Raises:
        CorpusError: beginning with file:line.
    """
    if queries.name.removesuffix(".gz").endswith(".json"):
        given = _read_dpr(queries, name)
        judged = given.qrels if qrels is None else read_qrels(qrels)
        return QuestionSet(name=name, queries=given.queries, qrels=judged, answers=given.answers)
    texts = read_queries(queries)
    answers = read_answers(queries)
    if qrels is None and not answers:
        raise CorpusError(f"{queries}: no question has 'answers'; give --qrels FILE")
    return QuestionSet(
        name=name,
        queries=texts,
        qrels=[] if qrels is None else read_qrels(qrels),
        answers=answers,
    )


def read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Answers by query id, of a JSONL whose objects have `answers`, or `metadata.answers`; a
    question with an empty list of them has none.

    Raises:
        CorpusError: answers that are no texts, or have no word in them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for where, line in lines_of(path):
        if not line.startswith("{"):
            return {}
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as failure:
            raise CorpusError(f"{where}: not valid JSON: {failure}") from failure
        metadata = record.get("metadata")
        given = record.get(
            "answers", metadata.get("answers") if isinstance(metadata, dict) else None
        )
        if given is not None and (answers := _answers(given, where)):
            found[str(record.get("_id", record.get("id")))] = answers
    return found


def _read_dpr(path: Path, name: str) -> QuestionSet:
    records = read_json_list(path)
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    qrels: list[Judgment] = []
    for number, record in enumerate(records):
        where = f"{path}[{number}]"
        text = record.get("question") if isinstance(record, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"{where}: no field 'question' with a text in it")
        query_id = str(record.get("id", record.get("question_id", number)))
        if query_id in queries:
            raise CorpusError(f"{where}: question id {query_id!r} was seen before")
        queries[query_id] = text
        if record.get("answers"):
            answers[query_id] = _answers(record["answers"], where)
        for positive in positives_of(record, where):
            passage_id = next((positive[key] for key in _DPR_ID if key in positive), None)
            if passage_id is not None:
                qrels.append(Judgment(query_id, str(passage_id), 1))
    if not qrels and not answers:
        raise CorpusError(f"{path}: no question has answers, nor positive_ctxs with ids")
    return QuestionSet(name=name, queries=queries, qrels=qrels, answers=answers)


def positives_of(record: Any, where: str) -> list[dict[str, Any]]:
    """A DPR record's `positive_ctxs`; none where it has no such field.

    Raises:
        CorpusError: they are not a list of objects.
    """
    given = record.get("positive_ctxs", [])
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise CorpusError(f"{where}: positive_ctxs must be a list of objects with title and text")
    return given


def read_json_list(path: Path) -> list[Any]:
    """The list that a .json or .json.gz holds.

    Raises:
        CorpusError: it isn't readable, or no list.
    """
    text = "\n".join(line for _, line in lines_of(path))
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise CorpusError(f"{path}: not JSON: {failure}") from failure
    if not isinstance(records, list) or not records:
        raise CorpusError(f"{path}: DPR's data is a list of objects")
    if "\\u" in text:  # only escapes can
        for number, record in enumerate(records):
            check_unicode(f"{path}[{number}]", json.dumps(record, ensure_ascii=False))
    return records


def _answers(given: Any, where: str) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(answer, str) for answer in listed):
        raise CorpusError(f"{where}: 'answers' must be a list of texts")
    for answer in listed:
        check_unicode(where, answer)
        if not AnswerMatch([answer]):
            raise CorpusError(f"{where}: answer {answer!r} has no word in it")
    return tuple(listed)
