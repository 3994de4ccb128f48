"""The waterfall of a cluster that lacks a shard: the missing part has a step of its own."""

import asyncio
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.served_search import serving_search
from faults.stub import StubEncode, passages, vector_of

from deploy.calibration.measure import open_shards
from deploy.cli.main import run
from deploy.evaluation.served_steps import Engine, Settings
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.stored import StoredIndex
from shoal.errors import InsufficientCoverageError
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

N_PASSAGES, N_PROBE, CANDIDATES = 600, 2, 100


class Offline(StubEncode):
    """The index's model, as the waterfall wants it; it cuts nothing."""

    def encode_queries(self, texts):
        return self([""] * len(texts), texts)


class OneShardDown(search_pb2_grpc.SearchServiceServicer):
    """A router whose second shard is away; the first is searched by the index's own engine."""

    def __init__(self, stored: StoredIndex) -> None:
        self.manifest = stored.manifest
        self.engine = Engine(
            shards=open_shards(stored.index_dir, stored.manifest),
            stored=np.concatenate(list(stored.vector_chunks())),
            ordinals=np.arange(N_PASSAGES),
        )

    async def GetIndex(self, request, context):
        return pb.GetIndexResponse(index=pb.Index(name=self.manifest.name, version=1))

    async def Search(self, request, context):
        n_live = [shard.n_live for shard in self.manifest.shards]
        coverage = n_live[0] / sum(n_live)
        if not request.HasField("min_coverage") or request.min_coverage > coverage:
            raise InsufficientCoverageError(f"coverage is {coverage}")
        vectors = np.stack([vector_of(query.text) for query in request.queries])
        settings = Settings(k=request.k, n_probe=N_PROBE, candidates=CANDIDATES)
        if request.exact:
            ranked = self.engine.exactly(vectors, request.k, [0])
        else:
            ranked = self.engine.in_shares(vectors, settings, [0])
        results = [
            pb.QueryResult(hits=[pb.Hit(passage=pb.Passage(id=f"p{p}")) for p in positions])
            for positions in ranked
        ]
        outcomes = [pb.OUTCOME_OK, pb.OUTCOME_DOWN]
        return pb.SearchResponse(
            results=results, index=self.manifest.name, version=1, coverage=coverage,
            n_probe=0 if request.exact else N_PROBE, candidates=0 if request.exact else CANDIDATES,
            shards=[pb.ShardOutcome(shard=i, outcome=o) for i, o in enumerate(outcomes)],
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """600 passages in two shards; each question is a passage's own text."""
    options = BuildOptions(name="half", n_shards=2, recipe="IVF4,PQ8")
    build_index(tmp_path / "index", passages(0, N_PASSAGES), StubEncode(), options)
    asked = range(0, N_PASSAGES, 6)
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{i}", "text": f"passage {i}"}) for i in asked)
    )
    (tmp_path / "qrels.tsv").write_text("\n".join(f"q{i}\tp{i}\t1" for i in asked))
    return tmp_path


OF_CODES = ["codes alone", "codes alone, nearest lists", "rescored", "rescored in shards"]


@pytest.mark.parametrize(("flags", "between"), [([], OF_CODES), (["--exact"], [])])
async def test_a_missing_shard_costs_what_it_holds(folder, monkeypatch, capsys, flags, between):
    """A question finds its passage wherever its shard answered: the others' points are lost in the
    step of the missing shards, and in no other. An exact search has no codes to explain.
    """
    opened = SimpleNamespace(open_offline=lambda *_, **__: Offline())
    monkeypatch.setitem(sys.modules, "deploy.evaluation.offline_encoder", opened)
    stored = StoredIndex.open(folder / "index")
    with (folder / "qrels.tsv").open("a") as file:
        file.write("\nq0\tabsent\t1\n")
    async with serving_search(OneShardDown(stored)) as target:
        code = await asyncio.to_thread(
            run,
            ["eval", "--waterfall", "--index", str(folder / "index"), "--set", str(folder),
             "--target", target, "--metrics", "Success@1", "--json", *flags],
        )  # fmt: skip
    written = capsys.readouterr()
    assert code == 0, written.err
    told = json.loads(written.out)
    steps = {step["change"]: step["lost"]["Success@1"] for step in told["steps"]}
    of_first = set(stored.passage_files[0].ordinals)
    asked = range(0, N_PASSAGES, 6)
    there = np.mean([i in of_first for i in asked])
    assert 0.2 < there < 0.8
    levels = {level["name"]: level["Success@1"] for level in told["levels"]}
    assert list(levels) == ["stored vectors", *between, "as answered", "served"]
    assert levels["stored vectors"] == 1.0  # a text is its own nearest
    assert levels[[*levels][-3]] == 1.0
    assert levels["as answered"] == told["Success@1"] == pytest.approx(there)
    missing = steps.pop("shards that were missing, n_probe that was shrunk")
    assert missing == pytest.approx(1 - there)
    assert sum(steps.values()) + missing == pytest.approx(told["lost"]["Success@1"])
    assert steps["served encoder and wire"] == 0.0
    shares = [shard.n_live / N_PASSAGES for shard in stored.manifest.shards]
    assert told["coverage"] == pytest.approx(shares[0])
    assert "1 of the judged passages are not in index 'half'" in written.err
