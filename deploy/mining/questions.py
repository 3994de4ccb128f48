"""Questions to mine for, with their passages: a BEIR folder, or DPR's JSON.

Rule: a question without a passage that answers it can't be trained on, and is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.mining.choose import MiningQuestion, key_of
from encoder_service.training.pairs import text_key
from shoal.errors import CorpusError
from shoal.evaluation.rankings import Found
from shoal.evaluation.sets import QuestionSet, positives_of, read_json_list, read_set


def read_questions(data: Path, corpus: Mapping[str, Found]) -> list[MiningQuestion]:
    """The questions of `data`: those of the same words share what answers them.

    Args:
        data: a BEIR folder, or DPR's .json with positive_ctxs.
        corpus: passages by id, for a folder's judgments.

    Raises:
        CorpusError: no question, one without a positive, or a judged passage that the corpus lacks.
    """
    if data.is_dir():
        judged = _of_judgments(read_set(data, split="train"), corpus, data)
        if not judged:
            raise CorpusError(f"{data}: no question has a passage that is judged to answer it")
        return _share_golds(judged)
    if not data.name.removesuffix(".gz").endswith(".json"):
        raise CorpusError(f"{data}: --data is a BEIR folder or DPR's .json")
    records = enumerate(read_json_list(data))
    return _share_golds([_of_record(record, n, f"{data}[{n}]") for n, record in records])


def _of_judgments(
    questions: QuestionSet, corpus: Mapping[str, Found], where: Path
) -> list[MiningQuestion]:
    golds: dict[str, list[Found]] = {}
    for judgment in questions.qrels:
        if judgment.relevance <= 0:
            continue
        if judgment.passage_id not in corpus:
            raise CorpusError(
                f"{where}: passage {judgment.passage_id!r} is judged, but the corpus hasn't it; "
                "give --corpus PATH"
            )
        golds.setdefault(judgment.query_id, []).append(corpus[judgment.passage_id])
    return [
        _question(
            query_id, questions.queries[query_id], golds[query_id],
            questions.answers.get(query_id, ()),
        )
        for query_id in questions.asked
        if query_id in golds
    ]  # fmt: skip


def _of_record(record: Any, number: int, where: str) -> MiningQuestion:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise CorpusError(f"{where}: no field 'question' with a text in it")
    positives = [_passage(value, where) for value in positives_of(record, where)]
    if not positives:
        raise CorpusError(f"{where}: no positive_ctxs; leave the question out")
    answers = record.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise CorpusError(f"{where}: 'answers' must be a list of texts")
    return _question(str(record.get("id", number)), record["question"], positives, answers)


def _passage(value: dict[str, Any], where: str) -> Found:
    title = value.get("title") or ""
    if not isinstance(value.get("text"), str) or not isinstance(title, str):
        raise CorpusError(f"{where}: a passage is an object with title and text")
    passage_id = value.get("passage_id", value.get("psg_id", ""))
    return Found(str(passage_id), 0.0, title, value["text"])


def _question(
    query_id: str, text: str, positives: Sequence[Found], answers: Iterable[str]
) -> MiningQuestion:
    return MiningQuestion(
        id=query_id,
        text=text,
        positives=tuple(positives),
        answers=tuple(answers),
        gold_keys=frozenset(key_of(passage) for passage in positives),
    )


def _share_golds(questions: Sequence[MiningQuestion]) -> list[MiningQuestion]:
    golds: dict[int, frozenset[int]] = {}
    keys = [text_key(question.text) for question in questions]
    for key, question in zip(keys, questions, strict=True):
        golds[key] = golds.get(key, frozenset()) | question.gold_keys
    return [
        replace(question, gold_keys=golds[key])
        for key, question in zip(keys, questions, strict=True)
    ]
