"""From what `--data` names to pairs: a BEIR folder, DPR's JSON, or JSONL.

A BEIR folder without a corpus of its own is given one after a comma: `QUESTIONS,CORPUS`.
"""

from collections.abc import Sequence
from pathlib import Path

from encoder_service.training.files import read_training_file
from encoder_service.training.pairs import PassageText, TrainingPair, pairs_of_judgments
from shard_server.building.read import read_corpus
from shoal.errors import CorpusError
from shoal.evaluation.files import beir_files, read_qrels, read_queries


def read_pairs(sources: Sequence[str], *, split: str = "train") -> list[TrainingPair]:
    """The pairs of all sources, in their order.

    A BEIR folder's judgments are qrels.tsv, else qrels/<split>.tsv: validation has a split of its
    own, for a folder that holds several must not be validated with what it is learned from.

    Raises:
        CorpusError: a source that is missing, empty or broken, naming it.
    """
    pairs: list[TrainingPair] = []
    for source in sources:
        found = _read(source, split)
        if not found:
            raise CorpusError(f"{source}: holds no pair of question and passage")
        pairs += found
    return pairs


def _read(source: str, split: str) -> list[TrainingPair]:
    questions, _, corpus = source.partition(",")
    path = Path(questions)
    if path.is_dir():
        return _read_beir(path, corpus or questions, split)
    if corpus:
        raise CorpusError(f"{questions}: only a BEIR folder takes a corpus after a comma")
    if not path.exists():
        raise CorpusError(
            f"{path}: no such file or folder; --data takes a BEIR folder, a DPR .json or a .jsonl"
        )
    return read_training_file(path)


def _read_beir(folder: Path, corpus: str, split: str) -> list[TrainingPair]:
    queries_file, qrels_file = beir_files(folder, split)
    queries = read_queries(queries_file)
    judged = [(j.query_id, j.passage_id) for j in read_qrels(qrels_file) if j.relevance > 0]
    wanted = {passage_id for _, passage_id in judged}
    passages = {
        passage.id: PassageText(passage.title, passage.text)
        for passage in read_corpus(corpus)
        if passage.id in wanted
    }
    return pairs_of_judgments(queries, judged, passages, str(qrels_file))
