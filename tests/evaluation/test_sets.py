"""Sets of questions from folders and files, with their answers."""

import gzip
import json

import pytest

from deploy.evaluation.sources import parse_set
from shoal.errors import ConfigError, CorpusError
from shoal.evaluation.files import Judgment
from shoal.evaluation.sets import read_files, read_set


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder of two questions, one judged."""
    folder = tmp_path / "facts"
    folder.mkdir()
    lines = [
        {"_id": "q1", "text": "who?", "answers": ["Homer"]},
        {"_id": "q2", "text": "when?", "metadata": {"answers": ["1715", "then"]}},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq2\tp1\t1\n")
    return folder


def test_a_folder_brings_questions_judgments_and_answers(beir):
    """Answers stand beside the text or under metadata; what is not judged is not asked."""
    found = read_set(beir)
    assert found.name == "facts"
    assert found.answers == {"q1": ("Homer",), "q2": ("1715", "then")}
    assert found.asked == ["q2"]


def test_answers_alone_are_enough(beir):
    """Open-domain questions have answers and no judged passage."""
    assert read_files(beir / "queries.jsonl.gz", None).asked == ["q1", "q2"]


def test_dprs_json_is_a_set(tmp_path):
    """Positive passages with an id are judgments; questions without an id are numbered."""
    records = [
        {
            "question": "who?",
            "answers": ["Homer"],
            "positive_ctxs": [{"passage_id": 7, "text": "x"}],
        },
        {"question": "when?", "answers": ["1715"], "positive_ctxs": []},
    ]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(records, indent=1))
    found = read_set(path)
    assert found.queries == {"0": "who?", "1": "when?"}
    assert found.qrels == [Judgment("0", "7", 1)]
    assert found.answers["1"] == ("1715",)


def test_a_question_without_answers_is_none_that_failed(tmp_path):
    """An empty list, as SQuAD 2 has it, is no answer that a searcher could miss."""
    lines = [
        {"_id": "a", "text": "x", "answers": []},
        {"_id": "b", "text": "y", "answers": ["Homer"]},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert read_files(tmp_path / "q.jsonl", None).asked == ["b"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"_id": "a", "text": "x", "answers": [3]}', "must be a list of texts"),
        ('{"_id": "a", "text": "x", "answers": [" "]}', "has no word"),
        ('{"_id": "a", "text": "x"}', "give --qrels"),
        ('{"_id": "a", "text": "x", "answers": []}', "give --qrels"),
    ],
)
def test_answers_that_say_nothing_are_refused(tmp_path, line, told):
    """An answer without a word would be found everywhere, or nowhere."""
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(CorpusError, match=told):
        read_files(tmp_path / "q.jsonl", None)


@pytest.mark.parametrize(
    ("form", "name", "index"),
    [("{}", "facts", "given"), ("mine={}", "mine", "given"), ("mine=books:{}", "mine", "books"),
     ("books:{}", "facts", "books")],
)  # fmt: skip
def test_a_set_may_name_itself_and_its_index(beir, form, name, index):
    """[NAME=][INDEX:]FOLDER; an index that isn't named is the command's."""
    source = parse_set(form.format(beir), "given")
    assert (source.questions.name, source.index, source.corpus) == (name, index, str(beir))


def test_a_set_that_is_not_there_is_told():
    """The message says how a set is written."""
    with pytest.raises(ConfigError, match=r"\[NAME=\]\[INDEX:\]FOLDER"):
        parse_set("x=/nonexistent", "")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{}", "list of objects"),
        ("[1", "not JSON"),
        ("[3]", r"\[0\]: no field 'question'"),
        ('[{"question": " ", "answers": ["b"]}]', r"\[0\]: no field 'question'"),
        ('[{"question": "a", "positive_ctxs": "b"}]', "must be a list of objects"),
        ('[{"question": "a"}]', "no question has answers"),
        ("[" * 5_000, "not JSON"),
        ('[{"question": "a\\ud800", "answers": ["b"]}]', r"\[0\]: holds half a surrogate pair"),
    ],
)
def test_a_broken_dpr_file_is_told(tmp_path, content, told):
    """One line that names the file and the record."""
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=told):
        read_set(tmp_path / "a.json")
