"""What counts as a negative, and what training files may hold."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.training.data import read_pairs
from encoder_service.training.files import read_training_file
from encoder_service.training.grouping import ALONE, by_title, by_topic, joined, needs_topics
from encoder_service.training.loss import contrastive_loss, make_batch
from encoder_service.training.pairs import PassageText, make_pair, share_golds
from shoal.errors import CorpusError

PARIS = PassageText("France", "Paris is its capital.")
ROME = PassageText("Italy", "Rome is its capital.")
TURIN = PassageText("Italy", "Turin was its first capital.")


def test_a_copy_of_the_answer_is_no_negative():
    """The same words under another id, in another case and spacing, still answer the question."""
    copy = PassageText("france", "Paris  is its\ncapital.")
    batch = make_batch(
        [make_pair("capital of France?", PARIS), make_pair("what is in Paris?", copy)],
        n_hard_negatives=0,
    )
    assert batch.passages == (PARIS,)
    assert batch.positives.tolist() == [0, 0]
    assert batch.allowed.tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("text", "copy"),
    [("Gen\u00e8ve", "Gene\u0300ve"), ("\ufb01ve", "FIVE"), ("1\u00a0000 km", "1 000\u2009km")],
)
def test_a_copy_that_unicode_writes_otherwise_is_a_copy(text, copy):
    """Composed or not, ligatures, wide spaces: two crawls of one page differ in little else."""
    batch = make_batch(
        [make_pair("a", PassageText("", text)), make_pair("b", PassageText("", copy))],
        n_hard_negatives=0,
    )
    assert len(batch.passages) == 1


def test_other_gold_passages_and_shared_ones_are_no_negatives():
    """A question's second gold passage, met as another's positive, must not be pushed away."""
    pairs = [
        make_pair("a capital of Italy?", ROME, golds=[ROME, TURIN]),
        make_pair("which came first?", TURIN),
        make_pair("capital of France?", PARIS, hard_negatives=[ROME, PARIS]),
    ]
    batch = make_batch(pairs, n_hard_negatives=2)
    assert batch.passages == (ROME, TURIN, PARIS)  # each once, for whomever it stands there
    assert batch.allowed.tolist() == [
        [True, False, True],
        [True, True, True],
        [True, True, True],
    ]


def test_a_passage_that_two_questions_share_counts_once_for_a_third():
    """Encoded once and met once: the loss is that of a batch whose copies were left out."""
    pairs = [
        make_pair("capital of Italy?", ROME),
        make_pair("where is Rome?", ROME),
        make_pair("capital of France?", PARIS),
    ]
    batch = make_batch(pairs, n_hard_negatives=0)
    assert batch.positives.tolist() == [0, 0, 1]
    questions = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    passages = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    losses = [math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(-0.2)),
              math.log(1 + math.exp(-1.0))]  # fmt: skip
    judged = contrastive_loss(questions, passages, batch, temperature=1.0)
    assert float(judged.loss) == pytest.approx(sum(losses) / 3, abs=1e-6)


def test_questions_of_the_same_words_share_their_answers():
    """Asked twice with different passages, both answer it."""
    shared = share_golds(
        [
            make_pair("Capital of Italy?", ROME, hard_negatives=[TURIN, PARIS]),
            make_pair("capital  of italy?", TURIN),
        ]
    )
    assert shared[0].gold_keys == shared[1].gold_keys == {ROME.key, TURIN.key}
    assert shared[0].hard_negatives == (PARIS,)


def test_the_loss_is_the_formula():
    """-log softmax of the positive over what is allowed, averaged; in float64 by hand."""
    rng = np.random.default_rng(0)
    questions, passages = rng.normal(size=(2, 8)), rng.normal(size=(4, 8))
    pairs = [
        make_pair("q0", ROME, golds=[TURIN]),
        make_pair("q1", TURIN, hard_negatives=[PARIS, PassageText("", "else")]),
    ]
    batch = make_batch(pairs, n_hard_negatives=2)
    judged = contrastive_loss(
        torch.tensor(questions), torch.tensor(passages), batch, temperature=0.5
    )
    scores = np.exp(questions @ passages.T / 0.5)
    expected = -np.mean(
        [
            np.log(scores[0, 0] / (scores[0, 0] + scores[0, 2] + scores[0, 3])),
            np.log(scores[1, 1] / scores[1].sum()),
        ]
    )
    assert float(judged.loss) == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_questions_whose_passage_is_best_of_what_is_allowed():
    """Another right answer that scores higher is no miss; a wrong one is."""
    pairs = [
        make_pair("a capital of Italy?", ROME, golds=[TURIN]),
        make_pair("the first?", TURIN),
        make_pair("capital of France?", PARIS),
    ]
    batch = make_batch(pairs, n_hard_negatives=0)
    questions = torch.tensor([[0.2, 0.9, 0.1], [0.1, 0.9, 0.3], [0.0, 0.6, 0.5]])
    judged = contrastive_loss(questions, torch.eye(3), batch, temperature=1.0)
    assert judged.accuracy == pytest.approx(2 / 3)


def test_dpr_json_is_read(tmp_path):
    """All positives are gold, the first is learned, and hard negatives come along."""
    record = {
        "question": "capital?",
        "answers": ["Rome"],
        "positive_ctxs": [{"title": "Italy", "text": ROME.text}, {"title": "Italy", "text": "x"}],
        "hard_negative_ctxs": [{"title": "France", "text": PARIS.text, "score": 3}],
        "negative_ctxs": [],
    }
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(json.dumps([record]).encode()))
    (pair,) = read_training_file(path)
    assert (pair.question, pair.positive, pair.hard_negatives) == ("capital?", ROME, (PARIS,))
    assert len(pair.gold_keys) == 2


def test_jsonl_pairs_are_read(tmp_path):
    """Texts or objects, one negative or a list."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"query": "a", "positive": "b", "negative": "c"}\n\n'
        '{"anchor": "a", "positive": {"title": "t", "text": "b"}, "negatives": ["c", "d"]}\n'
    )
    one, two = read_training_file(path)
    assert one.positive == PassageText("", "b")
    assert len(one.hard_negatives) == 1
    assert two.positive == PassageText("t", "b")
    assert len(two.hard_negatives) == 2


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"query": "a"}', "a.jsonl:1: no field 'positive'"),
        ("a.jsonl", '{"query": " ", "positive": "b"}', "a.jsonl:1: no field 'question'"),
        ("a.jsonl", "{", "a.jsonl:1: not JSON"),
        ("a.jsonl", '{"query": "a", "positive": {"text": 1}}', "a.jsonl:1: no field 'text'"),
        ("a.jsonl", '{"query": "a\\ud800", "positive": "b"}', "a.jsonl:1: holds half a surrogate"),
        ("a.jsonl", '{"query": "a", "positive": {"title": "\\ud800", "text": "b"}}', "a.jsonl:1"),
        ("a.json", '{"question": "a"}', "list of objects"),
        ("a.json", '[{"question": "a"}]', r"a.json\[0\]: no positive_ctxs"),
        ("a.csv", "a,b", "a BEIR folder, a DPR .json or a .jsonl"),
    ],
)
def test_a_broken_record_is_named(tmp_path, name, content, told):
    """One line says where and what; nothing is left out silently."""
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=told):
        read_training_file(tmp_path / name)


def write_beir(folder: Path, *, corpus: bool = True) -> Path:
    folder.mkdir()
    if corpus:
        (folder / "corpus.jsonl").write_text(
            '{"_id": "p1", "title": "Italy", "text": "Rome is its capital."}\n'
            '{"_id": "p2", "title": "France", "text": "Paris is its capital."}\n'
        )
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "capital of Italy?"}\n')
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\nq1\tp2\t0\n")
    return folder


def test_a_beir_folder_is_read_with_its_own_corpus_or_another(tmp_path):
    """Judged not relevant is no pair; a corpus apart is named after a comma."""
    whole = write_beir(tmp_path / "whole")
    apart = write_beir(tmp_path / "apart", corpus=False)
    (pair,) = read_pairs([str(whole)])
    assert (pair.question, pair.positive, pair.group) == ("capital of Italy?", ROME, "Italy")
    assert read_pairs([f"{apart},{whole}"]) == [pair]


def test_a_beir_folders_queries_may_be_a_tsv(tmp_path):
    """What can be evaluated and mined from can be learned from."""
    folder = write_beir(tmp_path / "set")
    (folder / "queries.jsonl").unlink()
    (folder / "queries.tsv").write_text("q1\tcapital of Italy?\n")
    assert [pair.question for pair in read_pairs([str(folder)])] == ["capital of Italy?"]


def test_validation_reads_a_split_of_its_own(tmp_path):
    """A BEIR folder of several splits would else be validated with what it is learned from."""
    folder = write_beir(tmp_path / "set")
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("q1\tp1\t1\n")
    with pytest.raises(CorpusError, match=r"nor .*dev\.tsv"):
        read_pairs([str(folder)], split="dev")
    (folder / "qrels" / "dev.tsv").write_text("q1\tp2\t1\n")
    (learned,), (validated,) = (read_pairs([str(folder)], split=s) for s in ("train", "dev"))
    assert (learned.positive, validated.positive) == (ROME, PARIS)


def test_a_judged_passage_must_be_in_the_corpus(tmp_path):
    """It would have been a question without an answer."""
    folder = write_beir(tmp_path / "set")
    (folder / "qrels.tsv").write_text("q1\tp9\t1\n")
    with pytest.raises(CorpusError, match="passage 'p9' is judged"):
        read_pairs([str(folder)])


def test_a_source_without_a_pair_is_named(tmp_path):
    """Beside others it would be missing silently."""
    folder = write_beir(tmp_path / "set")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match=r"empty\.jsonl: holds no pair"):
        read_pairs([str(folder), str(tmp_path / "empty.jsonl")])


def test_a_title_of_one_passage_is_no_group():
    """Its questions would fill a batch without a negative, whose loss is 0."""
    pairs = [make_pair(f"rome {n}", ROME) for n in range(4)]
    assert by_title(pairs, at_least=4).tolist() == [ALONE] * 4
    pairs += [make_pair("turin", TURIN)]
    assert set(by_title(pairs, at_least=4).tolist()) == {0}
    assert by_title(pairs, at_least=6).tolist() == [ALONE] * 5


def test_auto_groups_by_title_and_the_rest_by_topic():
    """Pairs that no title groups go by the topics of their questions, in numbers of their own."""
    titled = np.array([0, ALONE, 1, ALONE, 0])
    by_setting = {name: needs_topics(name, titled).tolist() for name in ("auto", "title", "topic")}
    assert by_setting == {
        "auto": [False, True, False, True, False],
        "title": [False] * 5,
        "topic": [True] * 5,
    }
    groups = joined(titled, needs_topics("auto", titled), np.array([0, 3]))
    assert groups.tolist() == [0, 2, 1, 5, 0]


def test_topics_are_of_questions_that_lie_near_each_other():
    """Some 256 questions a topic: two far clouds of them are two topics."""
    rng = np.random.default_rng(0)
    cloud = np.repeat(np.eye(8, dtype=np.float32)[:2], 256, axis=0)
    topics = by_topic(cloud + rng.normal(0, 0.01, cloud.shape).astype(np.float32), seed=0)
    assert len(set(topics[:256].tolist())) == len(set(topics[256:].tolist())) == 1
    assert topics[0] != topics[-1]
