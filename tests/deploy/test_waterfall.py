"""The waterfall: its steps add up, and each search is what numpy and faiss find by themselves."""

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.calibration.measure import open_shards
from deploy.evaluation import exact
from deploy.evaluation.exact import exact_search
from deploy.evaluation.explain import _as_answered, _compressed, _Ladder
from deploy.evaluation.ground import Ground, open_ground
from deploy.evaluation.served_steps import Engine, Settings
from deploy.evaluation.waterfall import Level, steps_of, total_lost
from router.candidates import shard_candidates
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.passage import Passage
from shard_server.building.stored import StoredIndex
from shoal.answers import Outcome, ScoreKind, Served, ShardOutcome, Timings
from shoal.errors import ConfigError
from shoal.evaluation.files import Judgment
from shoal.evaluation.metrics import parse_metrics
from shoal.evaluation.rankings import Found
from shoal.evaluation.score import Call
from shoal.evaluation.sets import QuestionSet

DIM, N_PASSAGES, N_QUERIES, N_SHARDS, N_LISTS = 24, 4_000, 40, 3, 32


def clustered(n_rows: int, seed: int) -> np.ndarray:
    centers = np.random.default_rng(1).standard_normal((60, DIM))
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 60, n_rows)] + 0.7 * rng.standard_normal((n_rows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Stored:
    contract, dim = None, DIM

    def __init__(self, vectors: np.ndarray) -> None:
        self._rows = iter(vectors)

    def __call__(self, titles, texts):
        return np.stack(list(itertools.islice(self._rows, len(texts))))


@pytest.fixture(scope="module", params=["inner_product", "l2"])
def stored(tmp_path_factory, request) -> StoredIndex:
    """4,000 bare vectors in three shards of 8-bit codes, whose scores hardly ever tie."""
    folder = tmp_path_factory.mktemp("waterfall") / "points"
    passages = (Passage(id=f"p{i}", title="", text=f"{i}", where="-") for i in range(N_PASSAGES))
    options = BuildOptions(
        name="points", n_shards=N_SHARDS, recipe=f"IVF{N_LISTS},PQ12", metric=request.param
    )
    build_index(folder, passages, Stored(clustered(N_PASSAGES, seed=2)), options)
    return StoredIndex.open(folder)


@pytest.fixture(scope="module")
def engine(stored) -> Engine:
    return Engine(
        shards=open_shards(stored.index_dir, stored.manifest),
        stored=np.concatenate(list(stored.vector_chunks())),
        ordinals=np.arange(N_PASSAGES),
    )


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(N_QUERIES, seed=3)


class Oracle:
    """faiss and numpy alone: each shard's own file, and the float16 vectors as numbers."""

    def __init__(self, stored: StoredIndex, vectors: np.ndarray) -> None:
        self.sign = -1 if stored.manifest.metric == "l2" else 1
        self.vectors = vectors.astype(np.float64)
        self.shards = []
        for shard in stored.manifest.shards:
            (segment,) = shard.segments
            index = faiss.read_index(str(stored.index_dir / segment.files.index.path))
            self.shards.append((index, self._ordinals(stored, len(self.shards))))

    def _ordinals(self, stored: StoredIndex, number: int) -> np.ndarray:
        return np.asarray(stored.passage_files[number].ordinals)

    def by_codes(self, query, k, n_probe, *, shard=None) -> list[int]:
        found = []
        for index, ordinals in self.shards if shard is None else [self.shards[shard]]:
            index.nprobe = n_probe
            scores, rows = index.search(query[None], k)
            there = rows[0] >= 0
            found += zip(-self.sign * scores[0][there], ordinals[rows[0][there]], strict=True)
        return [int(ordinal) for _, ordinal in sorted(found)[:k]]

    def in_order(self, query, ordinals, k) -> list[int]:
        """By exact score, best first."""
        ordinals = np.sort(np.asarray(ordinals, dtype=np.int64))
        rows = self.vectors[ordinals]
        if self.sign < 0:
            scores = -((rows - query.astype(np.float64)) ** 2).sum(axis=1)
        else:
            scores = rows @ query.astype(np.float64)
        return ordinals[np.argsort(-scores, kind="stable")][:k].tolist()


@pytest.fixture(scope="module")
def oracle(stored, engine) -> Oracle:
    return Oracle(stored, engine.stored)


def lists(ranked) -> list[list[int]]:
    return [positions.tolist() for positions in ranked]


def test_codes_alone_are_ranked_as_faiss_ranks_them(engine, oracle, queries):
    """Over all lists and over some: the shards' merged hits are faiss's own, id for id."""
    for n_probe in (N_LISTS, 3):
        wanted = [oracle.by_codes(query, 15, n_probe) for query in queries]
        assert lists(engine.by_codes(queries, 15, n_probe)) == wanted


def test_rescoring_is_that_of_the_whole_indexs_candidates(engine, oracle, queries):
    """The best 60 of all shards together by their codes, in the order of exact scores."""
    settings = Settings(k=10, n_probe=3, candidates=60)
    wanted = [oracle.in_order(q, oracle.by_codes(q, 60, 3), 10) for q in queries]
    assert lists(engine.rescored(queries, settings)) == wanted


def test_shares_are_what_each_shard_rescores(engine, oracle, queries, stored):
    """Each shard proposes its likely share; with a shard gone, the others' shares stay."""
    settings = Settings(k=10, n_probe=3, candidates=60)
    n_live = [shard.n_live for shard in stored.manifest.shards]
    shares = [shard_candidates(60, n, N_PASSAGES) for n in n_live]
    for answering in (None, [0, 2]):
        wanted = []
        for query in queries:
            proposed = [
                ordinal
                for shard in (answering or range(N_SHARDS))
                for ordinal in oracle.by_codes(query, shares[shard], 3, shard=shard)
            ]
            wanted.append(oracle.in_order(query, proposed, 10))
        assert lists(engine.in_shares(queries, settings, answering)) == wanted


def test_exact_search_is_numpys(engine, oracle, queries, stored, monkeypatch):
    """In one block or in many, over all vectors or one shard's."""
    everything = np.arange(N_PASSAGES)
    wanted = [oracle.in_order(query, everything, 20) for query in queries]
    metric = stored.manifest.metric
    assert exact_search(queries, engine.stored, 20, metric).tolist() == wanted
    monkeypatch.setattr(exact, "_BLOCK_ROWS", 700)
    monkeypatch.setattr(exact, "_QUERIES", 7)
    assert exact_search(queries, engine.stored, 20, metric).tolist() == wanted
    assert lists(engine.exactly(queries, 20, range(N_SHARDS))) == wanted
    of_one = stored.passage_files[1].ordinals
    wanted = [oracle.in_order(query, of_one, 20) for query in queries]
    assert lists(engine.exactly(queries, 20, [1])) == wanted


def test_ties_are_settled_by_row(monkeypatch):
    """Equal passages stand in the order of ingestion, over blocks too."""
    monkeypatch.setattr(exact, "_BLOCK_ROWS", 3)
    vectors = np.array([[1.0], [2.0], [1.0], [2.0], [1.0], [2.0], [0.0]], dtype=np.float16)
    query = np.ones((1, 1), dtype=np.float32)
    assert exact_search(query, vectors, 5, "inner_product").tolist() == [[1, 3, 5, 0, 2]]
    assert exact_search(query, vectors, 99, "inner_product").shape == (1, 7)


def call(names, n_probe, *missing) -> Call:
    outcomes = tuple(
        ShardOutcome(shard=shard, outcome=Outcome.LATE if shard in missing else Outcome.OK,
                     n_live=1, detail="", elapsed_ms=1.0)
        for shard in range(N_SHARDS)
    )  # fmt: skip
    timings = Timings(queue_ms=0, encode_ms=0, search_ms=0, merge_ms=0, fetch_ms=0, total_ms=0)
    served = Served(
        index="points", version=1, coverage=1.0, shards=outcomes, encoder_fingerprint="",
        n_probe=n_probe, n_probe_wanted=0, candidates=60, score_kind=ScoreKind.INNER_PRODUCT,
        timings=timings, request_id="",
    )  # fmt: skip
    return Call(query_ids=tuple(names), served=served)


def test_each_call_is_repeated_as_it_was_answered(engine, queries):
    """A late shard and a smaller n_probe cost the questions of that call alone."""
    names = [f"q{number}" for number in range(N_QUERIES)]
    calls = [call(names[:10], 8), call(names[10:25], 8, 1), call(names[25:], 2)]
    settings = Settings(k=10, n_probe=8, candidates=60)
    got = lists(_as_answered(engine, queries, calls, settings, exact=False))
    small = Settings(k=10, n_probe=2, candidates=60)
    wanted = [
        *lists(engine.in_shares(queries[:10], settings)),
        *lists(engine.in_shares(queries[10:25], settings, [0, 2])),
        *lists(engine.in_shares(queries[25:], small)),
    ]
    assert got == wanted
    assert got != lists(engine.in_shares(queries, settings))


VALUES = st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5, 1 / 3]), min_size=5, max_size=5),
                  min_size=2, max_size=8)  # fmt: skip


@given(VALUES)
def test_the_steps_add_up(tables):
    """Whatever was measured, all losses together are the way from the first level to the last."""
    levels = [
        Level(name=f"l{n}", change=f"c{n}", values={"RR": np.array(table)})
        for n, table in enumerate(tables)
    ]
    steps = steps_of(levels)
    assert sum(step.lost["RR"] for step in steps) == pytest.approx(
        total_lost(levels)["RR"], abs=1e-12
    )
    for step, before, after in zip(steps, tables, tables[1:], strict=False):
        assert step.n_lost["RR"] == sum(a < b for a, b in zip(after, before, strict=True))
        assert step.n_won["RR"] == sum(a > b for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [("points", 2, "serves version 2 of 'points'"), ("points", 1, "bare vectors")],
)
def test_what_cant_be_explained_is_refused(stored, tmp_path, name, version, told):
    """Another version than the folder's, or an index whose questions nobody can encode; no folder
    is left behind.
    """
    with pytest.raises(ConfigError, match=told):
        open_ground(stored.index_dir, tmp_path / "float32", name, version)
    assert not (tmp_path / "float32").exists()


def test_judged_passages_that_the_index_lacks_are_counted(stored):
    """A set of another corpus would be explained as all lost; a few absent ones are told."""
    passages = [Found(f"p{n}", 0.0) for n in range(3)]
    ground = Ground(index_dir=stored.index_dir, stored=stored, encoder=None, passages=passages,
                    float32_dir=None)  # fmt: skip

    def judged(*ids: str) -> QuestionSet:
        qrels = [Judgment("q", passage_id, 1) for passage_id in ids]
        return QuestionSet(name="set", queries={"q": "?"}, qrels=[*qrels, Judgment("q", "x", 0)])

    assert ground.n_absent(judged("p0", "p1")) == 0
    assert ground.n_absent(judged("p0", "p9", "p8")) == 2
    with pytest.raises(ConfigError, match="none of the passages that set judges"):
        ground.n_absent(judged("p8", "p9"))


def test_each_level_of_the_codes_is_the_search_it_says(stored, engine, oracle, queries):
    """By reciprocal rank of a passage that is hard to find: all lists, then few of them, then
    rescored as one index, then in shares; no two of them are the same search.
    """
    golds = [oracle.in_order(query, np.arange(N_PASSAGES), 8)[-1] for query in queries]
    names = [f"q{number}" for number in range(N_QUERIES)]
    questions = QuestionSet(
        name="hard",
        queries=dict.fromkeys(names, "?"),
        qrels=[Judgment(name, f"p{gold}", 1) for name, gold in zip(names, golds, strict=True)],
    )
    passages = [Found(f"p{number}", 0.0) for number in range(N_PASSAGES)]
    ladder = _Ladder(metrics=parse_metrics(["RR"]), questions=questions, passages=passages)
    settings = Settings(k=10, n_probe=3, candidates=12)
    _compressed(ladder, engine, queries, settings, stored.manifest)

    shares = [shard_candidates(12, s.n_live, N_PASSAGES) for s in stored.manifest.shards]
    searches = {
        "codes alone": lambda q: oracle.by_codes(q, 10, N_LISTS),
        "codes alone, nearest lists": lambda q: oracle.by_codes(q, 10, 3),
        "rescored": lambda q: oracle.in_order(q, oracle.by_codes(q, 12, 3), 10),
        "rescored in shards": lambda q: oracle.in_order(
            q,
            [o for s in range(N_SHARDS) for o in oracle.by_codes(q, shares[s], 3, shard=s)],
            10,
        ),
    }
    assert [level.name for level in ladder.levels] == list(searches)
    figures = []
    for level, search in zip(ladder.levels, searches.values(), strict=True):
        ranked = [search(query) for query in queries]
        wanted = [
            1 / (1 + ids.index(gold)) if gold in ids else 0.0
            for ids, gold in zip(ranked, golds, strict=True)
        ]
        assert level.values["RR"].tolist() == pytest.approx(wanted), level.name
        figures.append(level.figure("RR"))
    assert len(set(figures)) == len(figures)
