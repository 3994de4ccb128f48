"""Adding makes a version that is the old one and more, or changes nothing."""

import dataclasses
import itertools
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from fakes.killed_steps import killed_at

from shard_server.building import BuildOptions, Passage, add_passages, build_index, verify_index
from shard_server.devices import CpuBackend
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shard_server.segment_search import select_live
from shoal.errors import ConfigError, CorpusError, IndexFormatError, LockedError
from shoal.formats.deleted import read_deleted, write_deleted
from shoal.formats.files import builder_lock
from shoal.formats.history import roll_back
from shoal.formats.manifest import Manifest
from shoal.formats.passages import PassageFile
from shoal.formats.versions import load_manifest

RECIPES = ["Flat", "IVF16,PQ8x4fs", "IVF16,PQ8", "IVF16,SQ8"]


@pytest.fixture
def parts(make_passages):
    """600 passages, 50 of them and 350."""
    passages = list(make_passages(1_000))
    return passages[:600], passages[600:650], passages[650:]


@pytest.fixture
def start(tmp_path, encode, parts):
    """Builds the first part."""

    def build(recipe: str = "Flat", n_shards: int = 3) -> Path:
        options = BuildOptions(name="tiny", recipe=recipe, n_shards=n_shards, seed=5)
        build_index(tmp_path / "index", parts[0], encode, options)
        return tmp_path / "index"

    return build


def vectors_of(encode, passages) -> np.ndarray:
    made = encode([p.title for p in passages], [p.text for p in passages])
    return made.astype(np.float16).astype(np.float32)


def search(index_dir: Path, manifest: Manifest, queries: np.ndarray, k: int, **how):
    """The merged ordinals of all shards: (n, k)."""
    scores, ordinals = [], []
    for shard in range(len(manifest.shards)):
        data = ShardIndex.read(index_dir, manifest, shard)
        index = ShardIndex.place(manifest, shard, data, CpuBackend())
        hits = index.search(queries, SearchParameters(k=k, **how))
        scores.append(hits.scores)
        ordinals.append(hits.ordinals)
    best = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(np.concatenate(ordinals, axis=1), best, axis=1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_was_added_is_found_as_what_was_there(start, parts, encode, recipe):
    """Two additions: exact and compressed searches find the best of all 1,000, as numpy does."""
    index_dir = start(recipe)
    encode.n_texts = 0
    for part in parts[1:]:
        manifest = add_passages(index_dir, part, encode)
    assert encode.n_texts == 400
    vectors = vectors_of(encode, [*parts[0], *parts[1], *parts[2]])
    queries = vectors[::37]
    truth = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    assert np.array_equal(search(index_dir, manifest, queries, 10, exact=True), truth)
    if recipe != "Flat":
        whole = {"n_probe": 16, "candidates": 1_000}
        assert np.array_equal(search(index_dir, manifest, queries, 10, **whole), truth)


@pytest.mark.parametrize("recipe", RECIPES[:2])
def test_an_addition_is_whole_and_rewrites_nothing(start, parts, encode, recipe):
    """Counts, ordinals, one more segment a shard; the old version's files are shared."""
    index_dir = start(recipe)
    old = load_manifest(index_dir)
    manifest = add_passages(index_dir, parts[2], encode)
    assert load_manifest(index_dir) == manifest
    assert load_manifest(index_dir, 1) == old
    assert (manifest.version, manifest.n_live, manifest.next_ordinal) == (2, 950, 950)
    assert set(old.entries()) < set(manifest.entries())
    assert manifest.trained == old.trained
    for before, after in zip(old.shards, manifest.shards, strict=True):
        assert after.segments[:-1] == before.segments
    assert verify_index(index_dir).faults == ()
    assert not (index_dir / ".staging").exists()


def test_a_shard_without_new_passages_gets_no_segment(start, parts, encode):
    """One passage goes to one shard."""
    manifest = add_passages(start(), parts[1][:1], encode)
    assert sorted(len(shard.segments) for shard in manifest.shards) == [1, 1, 2]


def test_ordinals_are_never_used_again(start, parts, encode):
    """Rolled back and added to, the index goes on counting where it was."""
    index_dir = start()
    add_passages(index_dir, parts[1], encode)
    roll_back(index_dir)
    manifest = add_passages(index_dir, parts[1], encode)
    assert (manifest.version, manifest.n_live, manifest.next_ordinal) == (4, 650, 700)


def test_ids_that_are_there_are_refused_before_encoding(start, parts, encode):
    """The first is named with its place, in whatever segment its like lies; nothing changes."""
    index_dir = start()
    add_passages(index_dir, parts[1], encode)
    before = sorted(index_dir.rglob("*"))
    encode.n_texts = 0
    again = [*parts[2][:5], parts[1][3], parts[0][7]]
    with pytest.raises(CorpusError, match=r"^made-up:604: id 'p603' .*version 2.* and 1 more"):
        add_passages(index_dir, again, encode)
    assert encode.n_texts == 0
    assert load_manifest(index_dir).version == 2
    assert sorted(index_dir.rglob("*")) == before


def test_an_id_with_a_known_hash_and_another_text_is_new(start, parts, encode, monkeypatch):
    """Equal hashes are only a suspicion."""
    index_dir = start(n_shards=1)
    monkeypatch.setattr("shard_server.building.stage.hash64", lambda _: 7)
    monkeypatch.setattr("shoal.formats.ids.hash64", lambda _: 7)
    add_passages(index_dir, parts[1][:1], encode)
    assert add_passages(index_dir, parts[1][1:2], encode).n_live == 602
    with pytest.raises(CorpusError, match="id 'p600'"):
        add_passages(index_dir, parts[1][:1], encode)


def tower(encode, **changes) -> None:
    changed = encode.contract.passage.model_copy(update=changes)
    encode.contract = encode.contract.model_copy(update={"passage": changed})


def test_another_encoder_is_refused(start, parts, encode):
    """By fingerprint, for want of one, or by its dimension."""
    index_dir = start()
    made = encode.contract
    tower(encode, fingerprint="stranger")
    with pytest.raises(ConfigError, match=r"encoder f \(hash\).*stranger"):
        add_passages(index_dir, parts[1], encode)
    encode.contract = None
    with pytest.raises(ConfigError, match="would be of bare vectors"):
        add_passages(index_dir, parts[1], encode)
    encode.contract, encode.dim = made, 16
    with pytest.raises(ConfigError, match="32 dimensions"):
        add_passages(index_dir, parts[1], encode)
    assert load_manifest(index_dir).version == 1


def test_an_encoder_that_only_claims_to_be_the_same_is_refused(start, parts, encode):
    """Its probe vectors are not those that the index recorded."""
    probe = tuple(encode.vector("\nprobe").tolist())
    tower(encode, probe_texts=("probe",), probe_vectors=(probe,))
    index_dir = start()
    assert add_passages(index_dir, parts[1], encode).version == 2
    encode.vector = lambda text: -np.eye(32, dtype=np.float32)[len(text) % 32]
    with pytest.raises(ConfigError, match="not the same model"):
        add_passages(index_dir, parts[2], encode)


def test_metadata_may_grow_and_keeps_its_types(start, parts, encode):
    """A new column is the new segment's; an old one's type stands; integers fit doubles."""
    index_dir = start()

    def passage(place: int, **metadata) -> Passage:
        return dataclasses.replace(parts[1][place], metadata=metadata)

    manifest = add_passages(index_dir, [passage(0, year=1.5)], encode)
    assert manifest.metadata_columns == {"number": "int64", "odd": "bool", "year": "double"}
    manifest = add_passages(index_dir, [passage(1, year=2)], encode)
    assert manifest.metadata_columns["year"] == "double"
    for metadata in ({"number": "x"}, {"number": 1.5}):
        with pytest.raises(CorpusError, match=r"^made-up:604: .*'number' .* int64 in v"):
            add_passages(index_dir, [passage(2), passage(3, **metadata)], encode)
    assert verify_index(index_dir).faults == ()


def test_no_index_or_a_broken_one_is_told(start, parts, encode, tmp_path):
    """Nothing is made where there is nothing; an altered file that is needed is named."""
    with pytest.raises(IndexFormatError, match="shoal index build"):
        add_passages(tmp_path / "none", parts[1], encode)
    assert not (tmp_path / "none").exists()
    index_dir = start("IVF16,SQ8")
    with builder_lock(index_dir), pytest.raises(LockedError):
        add_passages(index_dir, parts[1], encode)
    trained = index_dir / load_manifest(index_dir).trained.path
    trained.write_bytes(trained.read_bytes()[:-1] + b"\xff")
    with pytest.raises(IndexFormatError, match=r"trained\.faiss"):
        add_passages(index_dir, parts[1], encode)


_KILLED = """
import numpy as np
from fakes.killed_steps import run_all
from shard_server.building import Passage, add_passages
from shoal.contract import EncoderContract, TowerContract

class Encode:
    dim = 32
    tower = TowerContract(fingerprint="f", dim=32, max_tokens=256, pooling="mean", normalized=True)
    contract = EncoderContract(model="hash", question=tower, passage=tower)
    def __call__(self, titles, texts):
        return np.ones((len(texts), 32), dtype=np.float32)

passages = [Passage(id=f"new{i}", title="", text="t", where=f"x:{i}") for i in range(20)]
run_all(lambda index_dir: add_passages(index_dir, passages, Encode()))
"""
_ENDLESS = 10_000


def test_killed_anywhere_the_old_version_lives(start, parts, encode, tmp_path):
    """SIGKILL before changes of the file system: the old version or the new, then it works."""
    source = start("IVF16,SQ8", n_shards=2)
    whole = tmp_path / "whole"
    shutil.copytree(source, whole)
    (ended,) = killed_at(_KILLED, [(whole, _ENDLESS)])
    n_steps = _ENDLESS - ended.n_left
    assert load_manifest(whole).n_live == 620
    runs = [(tmp_path / f"at-{step}", step) for step in np.linspace(0, n_steps, 12, dtype=int)]
    for index_dir, _ in runs:
        shutil.copytree(source, index_dir)
    seen = set()
    for (index_dir, step), ended in zip(runs, killed_at(_KILLED, runs), strict=True):
        assert ended.code == (0 if step == n_steps else -signal.SIGKILL)
        live = load_manifest(index_dir)
        assert live.n_live in {600, 620}
        assert verify_index(index_dir).faults == ()
        after = add_passages(index_dir, parts[1], encode)
        assert after.n_live == live.n_live + 50
        assert verify_index(index_dir).faults == ()
        assert not (index_dir / ".staging").exists()
        shutil.rmtree(index_dir)
        seen.add((ended.code, live.n_live))
    assert (-signal.SIGKILL, 600) in seen
    assert (0, 620) in seen


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_replaced_passage_is_found_as_it_is_now(start, parts, encode, recipe):
    """Replaced twice, in several segments: searches find what numpy finds among the live ones."""
    index_dir = start(recipe)
    texts = {p.id: p for p in parts[0]}
    for round_ in range(2):
        news = [
            dataclasses.replace(p, text=f"round {round_} of {p.id}")
            for p in (*parts[0][round_ * 100 : 200], *parts[1])
        ]
        texts |= {p.id: p for p in news}
        manifest = add_passages(index_dir, news, encode, replace_known=True)
    assert (manifest.n_live, manifest.n_rows, manifest.next_ordinal) == (650, 1_000, 1_000)
    vectors = vectors_of(encode, [*texts.values()])
    queries = vectors[::13]
    truth = [list(texts)[i] for i in np.argmax(queries @ vectors.T, axis=1)]
    whole = {"exact": True} if recipe == "Flat" else {"n_probe": 16, "candidates": 700}
    for how in ({"exact": True}, whole):
        assert ids_found(index_dir, manifest, queries, how) == truth
    everything = search(index_dir, manifest, queries[:3], 700, **whole)
    assert all(len(set(row)) == len(row) for row in everything.tolist())
    assert everything.shape[1] == 650
    assert verify_index(index_dir).faults == ()
    with pytest.raises(CorpusError, match="--replace"):
        add_passages(index_dir, parts[1][:1], encode)


def ids_found(index_dir: Path, manifest: Manifest, queries: np.ndarray, how) -> list[str]:
    """The id of each query's best hit."""
    best = search(index_dir, manifest, queries, 1, **how)[:, 0].tolist()
    ids = {}
    for shard in manifest.shards:
        for segment in shard.segments:
            file = PassageFile.open(index_dir / segment.files.passages.path)
            column = file.take(np.arange(file.n_rows), ("id",))["id"]
            ends = column.offsets.tolist()
            names = [column.data[a:b].decode() for a, b in itertools.pairwise(ends)]
            ids |= dict(zip(file.ordinals.tolist(), names, strict=True))
    return [ids[ordinal] for ordinal in best]


def test_a_segment_of_which_nothing_is_left_is_searched_no_more(start, parts, encode):
    """Every row superseded: zero live rows are no special case."""
    index_dir = start("IVF16,PQ8x4fs")
    manifest = add_passages(index_dir, parts[0], encode, replace_known=True)
    assert (manifest.n_live, manifest.n_rows) == (600, 1_200)
    assert {shard.segments[0].n_live for shard in manifest.shards} == {0}
    found = search(index_dir, manifest, vectors_of(encode, parts[0][:9]), 5, exact=True)
    assert found[:, 0].tolist() == list(range(600, 609))


def test_a_bitmap_that_does_not_fit_is_refused(tmp_path):
    """Its length, its count and the bits beyond its rows are checked."""
    path = tmp_path / "deleted.bits"
    deleted = np.zeros(12, dtype=bool)
    deleted[[0, 11]] = True
    write_deleted(path, deleted)
    assert path.read_bytes() == bytes([0b1, 0b1000])
    assert np.array_equal(read_deleted(path, n_rows=12, n_live=10), deleted)
    for n_rows, n_live in ((12, 11), (17, 15), (8, 7), (11, 10)):
        with pytest.raises(IndexFormatError, match=r"deleted\.bits"):
            read_deleted(path, n_rows=n_rows, n_live=n_live)


def test_a_gpu_does_not_serve_superseded_passages():
    """faiss ignores selectors there without an error: an answer would hold what is gone."""
    with pytest.raises(ConfigError, match="--device cpu"):
        select_live(np.array([True]), "cuda:0")
