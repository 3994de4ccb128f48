"""Mine hard negatives: each question through BM25 and a running cluster, and what is left of it.

Rule: questions are done in their order, a batch at a time, and a killed run goes on behind the last
whole one; the output is the same as if it had never been killed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.evaluation.sources import read_passages
from deploy.mining.choose import BM25, CLUSTER, Choice, MiningQuestion, choose, key_of
from deploy.mining.questions import read_questions
from deploy.mining.work import WorkFile
from shoal.client import Client
from shoal.errors import ConfigError
from shoal.evaluation.asking import ask
from shoal.evaluation.rankings import Found
from shoal.evaluation.sparse import Bm25, top_rows
from shoal.requests import SearchOptions

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningPlan:
    """What to mine. `corpus` is what BM25 searches and judgments name; empty for none.

    `depth` hits of each source are looked at for `n_negatives`; `margin` as `choose`. `restart`
    throws away what an interrupted run left; an earlier output stays until this one is whole.
    """

    data: Path
    out: Path
    corpus: str
    sources: tuple[str, ...] = (CLUSTER, BM25)
    n_negatives: int = 8
    depth: int = 100
    margin: float | None = 0.0
    batch: int = 64
    timeout_s: float = 60.0
    restart: bool = False
    options: SearchOptions = field(default_factory=SearchOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """What came of it: `n_negatives` by source, hits left out by reason; `n_kept` questions are an
    earlier run's.
    """

    n_questions: int
    n_kept: int
    n_without: int
    n_negatives: Mapping[str, int]
    left_out: Mapping[str, int]


def mine(plan: MiningPlan, client: Client | None, progress: Progress) -> Mined:
    """Mines all questions into `plan.out`, DPR's JSON.

    Args:
        plan: what to mine.
        client: of the cluster, where `plan.sources` names it.
        progress: told of questions.

    Raises:
        ConfigError: a source without what it searches, or work of another mining at `out`.
        CorpusError: a fault in the data.
        ShoalError: a search failed; what was mined before is kept.
    """
    if BM25 in plan.sources and not plan.corpus:
        raise ConfigError("BM25 searches a corpus; give --corpus PATH, or --by cluster alone")
    passages = read_passages(plan.corpus) if plan.corpus else []
    questions = read_questions(plan.data, {passage.id: passage for passage in passages})
    identity = _identity(plan, questions, passages, client)
    with WorkFile(plan.out, identity, restart=plan.restart) as work:
        n_kept = work.n_done
        if n_kept:
            progress("kept mine", n_kept, len(questions))
        todo = questions[n_kept:]
        bm25 = None
        if todo and BM25 in plan.sources:
            bm25 = Bm25([f"{passage.title} {passage.text}" for passage in passages])
        for batch, of_cluster in _batches(plan, todo, client):
            records = []
            for question, hits in zip(batch, of_cluster, strict=True):
                found = {CLUSTER: hits} if CLUSTER in plan.sources else {}
                if bm25 is not None:
                    scores = bm25.scores(question.text)
                    found[BM25] = [
                        passages[row]._replace(score=float(scores[row]))
                        for row in top_rows(scores, plan.depth)
                    ]
                choice = choose(question, found, n_negatives=plan.n_negatives, margin=plan.margin)
                records.append({"left_out": choice.left_out, "record": _record(question, choice)})
            work.append(records)
            progress("mine", work.n_done, len(questions))
        mined = _summary(work.records(), n_kept)
        work.finish(json.dumps(line["record"], ensure_ascii=False) for line in work.records())
    return mined


def _batches(
    plan: MiningPlan, questions: Sequence[MiningQuestion], client: Client | None
) -> Iterator[tuple[Sequence[MiningQuestion], Sequence[list[Found]]]]:
    """Questions with what the cluster found for each; nothing where it isn't asked."""
    if CLUSTER not in plan.sources:
        for start in range(0, len(questions), plan.batch):
            batch = questions[start : start + plan.batch]
            yield batch, [[] for _ in batch]
        return
    assert client is not None
    options: SearchOptions = {**plan.options, "k": plan.depth, "fields": ("title", "text")}
    texts = [question.text for question in questions]
    done = 0
    for answers in ask(client, texts, options=options, batch=plan.batch, timeout_s=plan.timeout_s):
        batch = questions[done : done + len(answers)]
        done += len(answers)
        yield (
            batch,
            [[Found(h.id, h.score, h.title, h.text) for h in result.hits] for result in answers],
        )


def _record(question: MiningQuestion, choice: Choice) -> dict[str, Any]:
    """A question as DPR's training data has it."""
    return {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "positive_ctxs": [_context(passage) for passage in question.positives],
        "negative_ctxs": [],
        "hard_negative_ctxs": [
            {**_context(passage), "score": passage.score, "source": source}
            for source, passage in choice.negatives
        ],
    }


def _context(passage: Found) -> dict[str, Any]:
    return {"title": passage.title, "text": passage.text, "passage_id": passage.id}


def _identity(
    plan: MiningPlan,
    questions: Sequence[MiningQuestion],
    passages: Sequence[Found],
    client: Client | None,
) -> str:
    """Equal for two runs whose outputs must be equal; which batch size and path is no matter."""
    settings = {
        name: value
        for name, value in asdict(plan).items()
        if name not in {"data", "out", "corpus", "batch", "timeout_s", "restart"}
    }
    if CLUSTER in plan.sources:
        if client is None:
            raise ConfigError("the cluster is to be asked, but no --target is given")
        index = client.get_index(plan.options.get("index", ""), timeout_s=plan.timeout_s)
        settings["served"] = [index.name, index.version]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for question in questions:
        golds = [key_of(passage) for passage in question.positives]
        digest.update(json.dumps([question.id, question.text, question.answers, golds]).encode())
    if BM25 in plan.sources:
        for passage in passages:
            digest.update(json.dumps([passage.id, key_of(passage)]).encode())
    return digest.hexdigest()


def _summary(lines: Iterator[Any], n_kept: int) -> Mined:
    by_source: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    n_questions = n_without = 0
    for line in lines:
        negatives = line["record"]["hard_negative_ctxs"]
        n_questions += 1
        n_without += not negatives
        by_source.update(negative["source"] for negative in negatives)
        left_out.update(line["left_out"])
    return Mined(
        n_questions=n_questions,
        n_kept=n_kept,
        n_without=n_without,
        n_negatives=dict(by_source),
        left_out=dict(left_out),
    )
