"""Mining through a live cluster: hits come over the public API, and `shoal train` reads them."""

import json

import pytest
from facts import FACTS, QUESTIONS

from encoder_service.training.files import read_training_file
from shoal.client import Client

pytestmark = pytest.mark.end_to_end


def test_the_cluster_proposes_what_it_ranks_high(cluster, tmp_path):
    """Negatives are the cluster's own best hits without the gold passage, none above it."""
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{n}", "text": q}) for n, q in enumerate(QUESTIONS))
    )
    (folder / "qrels.tsv").write_text(
        "\n".join(f"q{n}\t{p}\t1" for n, p in enumerate(QUESTIONS.values()))
    )
    (folder / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": i, "title": t, "text": x}) for i, (t, x) in FACTS.items())
    )
    out = tmp_path / "mined.json"
    told = cluster.shoal(
        "mine", "--data", str(folder), "--by", "cluster", "--negatives", "3", "--depth", "6",
        "--out", str(out), "--target", cluster.target, "--json",
    )  # fmt: skip
    assert json.loads(told.stdout)["n_negatives"] == {"cluster": 3 * len(QUESTIONS)}
    with Client(cluster.target) as client:
        for record in json.loads(out.read_text()):
            hits = [hit.id for hit in client.search(record["question"], k=6).hits]
            (gold,) = (passage["passage_id"] for passage in record["positive_ctxs"])
            mined = [passage["passage_id"] for passage in record["hard_negative_ctxs"]]
            assert mined == [i for i in hits[hits.index(gold) :] if i != gold][:3]
    assert len(read_training_file(out)) == len(QUESTIONS)
