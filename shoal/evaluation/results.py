"""Rankings as files: TREC runs, and DPR's result JSON.

Rule: a file is whole or absent.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from shoal.errors import CorpusError
from shoal.evaluation.rankings import Rankings
from shoal.evaluation.sets import QuestionSet
from shoal.evaluation.words import AnswerMatch
from shoal.formats.files import guard_storage, write_durably


def write_trec_run(path: Path, rankings: Rankings, tag: str) -> None:
    """`query-id Q0 passage-id rank score tag`, ranks from 1.

    Raises:
        CorpusError: an id with white space in it, which the format can't hold.
        StorageError: the file can't be written.
    """
    lines = []
    for query_id, ranking in rankings.items():
        for rank, found in enumerate(ranking, start=1):
            for name in (query_id, found.id):
                if len(name.split()) != 1:
                    raise CorpusError(f"id {name!r} has white space; a TREC run can't hold it")
            lines.append(f"{query_id} Q0 {found.id} {rank} {found.score:.9g} {tag}\n")
    _write(path, "".join(lines))


def write_dpr_results(path: Path, questions: QuestionSet, rankings: Rankings) -> None:
    """A list of `question`, `answers` and `ctxs` (`id`, `title`, `text`, `score`, `has_answer`).

    Scores are texts, as in DPR's own files.

    Raises:
        StorageError: the file can't be written.
    """
    records = []
    for query_id in questions.asked:
        answers: Sequence[str] = questions.answers.get(query_id, ())
        match = AnswerMatch(answers)
        records.append({
            "id": query_id,
            "question": questions.queries[query_id],
            "answers": list(answers),
            "ctxs": [
                {
                    "id": found.id,
                    "title": found.title,
                    "text": found.text,
                    "score": f"{found.score:.9g}",
                    "has_answer": match.found_in(found.text),
                }
                for found in rankings.get(query_id, ())
            ],
        })  # fmt: skip
    _write(path, json.dumps(records, ensure_ascii=False, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with guard_storage(path):
        write_durably(path, text.encode())
