"""Hard negatives: what is left out and why, and a mining that is killed and goes on."""

import json
import resource
import signal

import pytest

from deploy.mining.choose import BM25, CLUSTER, MiningQuestion, choose, key_of
from deploy.mining.questions import read_questions
from deploy.mining.work import WorkFile
from encoder_service.training.files import read_training_file
from shoal.errors import ConfigError, CorpusError, LockedError, StorageError
from shoal.evaluation.rankings import Found

GOLD = Found("gold", 0.8, "T", "the right one")


def question(*answers: str) -> MiningQuestion:
    keys = frozenset({key_of(GOLD)})
    return MiningQuestion(id="q", text="?", positives=(GOLD,), answers=answers, gold_keys=keys)


def hit(name: str, score: float = 0.5, text: str = "") -> Found:
    return Found(name, score, "", text or f"passage {name}")


def chosen(found, *answers, n_negatives=10, margin=None):
    choice = choose(question(*answers), found, n_negatives=n_negatives, margin=margin)
    return [passage.id for _, passage in choice.negatives], choice.left_out


def test_what_may_answer_is_no_negative():
    """The gold passage, its copy under another id and case, and what holds an answer."""
    copy = Found("copy", 0.79, "t", "THE  right one")
    found = {CLUSTER: [GOLD, copy, hit("a", text="In 1715, he"), hit("b")]}
    assert chosen(found, "1715") == (["b"], {"gold": 1, "answer": 1})


def test_sources_take_turns_and_nothing_comes_twice():
    """Best of each first; a passage that both found, or that has a twin, is one negative."""
    twin = Found("twin", 0.1, "", "passage a")
    found = {CLUSTER: [hit("a"), hit("b"), hit("c")], BM25: [hit("b"), twin, hit("d")]}
    assert chosen(found)[0] == ["a", "b", "c", "d"]
    assert chosen(found, n_negatives=3)[0] == ["a", "b", "c"]


def test_the_margin_is_below_the_positive():
    """With the positive at 0.8, a margin of 0.1 leaves out what scores above 0.7."""
    found = {
        CLUSTER: [hit("over", 0.9), GOLD, hit("near", 0.75), hit("edge", 0.7), hit("far", 0.2)]
    }
    assert chosen(found, margin=0.1) == (["edge", "far"], {"margin": 2, "gold": 1})
    assert chosen(found, margin=0.0)[0] == ["near", "edge", "far"]
    assert chosen(found)[0] == ["over", "near", "edge", "far"]


def test_a_positive_that_was_not_found_scores_below_every_hit():
    """Then all hits lie above it; what BM25 alone found has no score to be judged by."""
    found = {CLUSTER: [hit("a", 0.9)], BM25: [hit("a", 3.0), hit("b", 2.0)]}
    assert chosen(found, margin=0.0) == (["b"], {"margin": 1})


def test_the_margin_knows_a_passage_by_its_words():
    """BM25 proposes first, and under another id, what the cluster scores above the positive."""
    twin = Found("twin", 9.0, "", "passage over")
    found = {CLUSTER: [GOLD, hit("a", 0.4), hit("over", 0.9)], BM25: [twin, hit("b", 8.0)]}
    assert chosen(found, margin=0.0) == (["a", "b"], {"gold": 1, "margin": 1})


def test_questions_of_the_same_words_share_their_golds(tmp_path):
    """Another question's right passage is no negative for the same words."""
    records = [
        {"question": "Who?", "answers": ["x"], "positive_ctxs": [{"title": "", "text": "one"}]},
        {"question": "who?", "answers": ["x"], "positive_ctxs": [{"title": "", "text": "two"}]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    first, second = read_questions(tmp_path / "a.json", {})
    assert first.gold_keys == second.gold_keys
    assert len(first.gold_keys) == 2


@pytest.mark.parametrize("positives", [[], [{"title": "no text"}], ["a string"]])
def test_a_question_without_a_positive_is_refused(tmp_path, positives):
    """It could not be trained on."""
    (tmp_path / "a.json").write_text(json.dumps([{"question": "?", "positive_ctxs": positives}]))
    with pytest.raises(CorpusError, match=r"a\.json\[0\]"):
        read_questions(tmp_path / "a.json", {})


def test_judgments_that_find_nothing_relevant_are_refused(tmp_path):
    """The output would be a list of nothing, which no training takes."""
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "who?"}\n')
    (tmp_path / "qrels.tsv").write_text("q\tp\t0\n")
    with pytest.raises(CorpusError, match="judged to answer"):
        read_questions(tmp_path, {"p": GOLD})


def test_a_torn_line_is_cut_off(tmp_path):
    """A kill in the middle of a write loses that question alone; other work is refused."""
    out = tmp_path / "out.json"
    with WorkFile(out, "mine") as work:
        work.append([{"n": 0}, {"n": 1}])
        with pytest.raises(LockedError):
            WorkFile(out, "mine")
    with (tmp_path / "out.json.work").open("ab") as file:
        file.write(b'{"n": 2')
    with pytest.raises(ConfigError, match="another mining"):
        WorkFile(out, "yours")
    with WorkFile(out, "mine") as work:
        assert work.n_done == 2
        work.append([{"n": 2}])
        work.finish(json.dumps(record) for record in work.records())
    assert json.loads(out.read_text()) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_an_output_that_finds_no_room_leaves_nothing_half_written(tmp_path):
    """The work stays, the room is given back, and the same command ends it."""
    out = tmp_path / "out.json"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WorkFile(out, "mine") as work:
        work.append([{"n": 0}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
        try:
            with pytest.raises(StorageError, match="File too large"):
                work.finish(["0" * 100_000])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.work"]
    with WorkFile(out, "mine") as work:
        work.finish([])
    assert json.loads(out.read_text()) == []


def test_work_is_thrown_away_by_its_holder_alone(tmp_path):
    """--restart waits for nobody's work to vanish under them, and the last output stays until the
    next one is whole.
    """
    out = tmp_path / "out.json"
    out.write_text("the last one")
    with WorkFile(out, "mine") as work:
        work.append([{"n": 0}])
        with pytest.raises(LockedError):
            WorkFile(out, "yours", restart=True)
        assert list(work.records()) == [{"n": 0}]
    with WorkFile(out, "yours", restart=True) as work:
        assert (work.n_done, out.read_text()) == (0, "the last one")
        work.append([{"n": 1}])
        work.finish(json.dumps(record) for record in work.records())
    assert json.loads(out.read_text()) == [{"n": 1}]


@pytest.fixture
def many(tmp_path):
    """A BEIR folder with enough questions to be killed among."""
    folder = tmp_path / "many"
    folder.mkdir()
    passages = [{"_id": f"p{i}", "text": f"word{i % 50} thing{i} other{i % 7}"} for i in range(500)]
    queries = [{"_id": f"q{i}", "text": f"word{i % 50} other{i % 7}?"} for i in range(2_000)]
    for name, records in (("corpus", passages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "qrels.tsv").write_text("\n".join(f"q{i}\tp{i % 500}\t1" for i in range(2_000)))
    return folder


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--by", "sparse"], "--by sparse: known are cluster and bm25"),
        (["--by", "bm25", "--margin", "0"], "--margin: only of --by cluster"),
        (["--margin", "0.1", "--no-margin"], "--margin and --no-margin contradict each other"),
    ],
)
def test_a_flag_that_would_do_nothing_is_a_wrong_flag(flags, said, tmp_path, shoal):
    """Said at once: a margin that BM25 never looked at would be taken for one that held."""
    refused = shoal("mine", "--data", "any.json", "--out", str(tmp_path / "out.json"), *flags)
    assert refused.returncode == 64
    assert said in " ".join(refused.stderr.split())


@pytest.mark.end_to_end
def test_a_killed_mining_ends_as_if_it_never_was(many, tmp_path, shoal, start_shoal, eventually):
    """SIGKILL in the middle; the same command goes on, and the file is that of an unharmed run."""

    def arguments(out: str) -> list[str]:
        return ["mine", "--data", str(many), "--by", "bm25", "--batch", "1", "--depth", "20",
                "--negatives", "3", "--out", str(tmp_path / out), "--json"]  # fmt: skip

    work = tmp_path / "killed.json.work"
    process = start_shoal(*arguments("killed.json"))
    eventually(lambda: work.exists() and work.stat().st_size > 20_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.json").exists()
    whole = start_shoal(*arguments("whole.json"))
    again = shoal(*arguments("killed.json"))
    assert again.returncode == 0, again.stderr
    assert whole.wait(timeout=60) == 0
    assert 0 < json.loads(again.stdout)["n_kept"] < 2_000
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    scores = [passage["score"] for record in json.loads((tmp_path / "killed.json").read_text())
              for passage in record["hard_negative_ctxs"][:1]]  # fmt: skip
    assert min(scores) > 0, "a proposal stands with its score"
    pairs = read_training_file(tmp_path / "killed.json")
    assert len(pairs) == 2_000
    assert all(pair.hard_negatives for pair in pairs)
    refused = shoal(*arguments("killed.json"))
    assert (refused.returncode, "is there already" in refused.stderr) == (78, True)
