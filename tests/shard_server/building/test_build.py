"""A build is whole, as its manifest says, and the same whatever the number of shards."""

import faiss
import numpy as np
import pytest

from shard_server.building import inspect_index, verify_index
from shard_server.faiss_files import read_familiar
from shoal.formats.ids import IdFile, hash64
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file, load_manifest

RECIPES = ["Flat", "IVF16,PQ8", "IVF16,PQ8x4fs", "IVF16,SQ8", "IVF16,Flat"]
METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


def opened(index_dir, manifest, entry):
    path = check_file(index_dir, entry)
    return read_familiar(path, mapped=True, n_lists=manifest.n_lists, dim=manifest.dim)


@pytest.mark.parametrize("n_shards", [1, 4])
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_index_is_whole(built, recipe: str, n_shards: int) -> None:
    """The live manifest is the returned one, all counts agree, nothing else lies about."""
    index_dir, manifest, _ = built(recipe, n_shards)
    assert load_manifest(index_dir) == manifest
    assert (manifest.n_rows, manifest.n_live, manifest.next_ordinal) == (3_000, 3_000, 3_000)
    assert (manifest.recipe, len(manifest.shards)) == (recipe, n_shards)
    assert (manifest.trained is None) == (recipe == "Flat")
    assert manifest.metadata_columns == {"number": "int64", "odd": "bool"}
    report = verify_index(index_dir)
    assert report.faults == ()
    assert report.n_files == len(manifest.entries())
    assert not (index_dir / ".staging").exists()


@pytest.mark.parametrize("n_shards", [1, 4])
def test_rows_hold_their_passage_everywhere(built, make_passages, n_shards: int) -> None:
    """Row by row, passages, ids, ordinals and vectors are of one passage, in ingestion order."""
    index_dir, manifest, vectors = built("IVF16,PQ8x4fs", n_shards)
    passages = list(make_passages(3_000))
    seen: list[int] = []
    for number, shard in enumerate(manifest.shards):
        (segment,) = shard.segments
        file = PassageFile.open(check_file(index_dir, segment.files.passages))
        ids = IdFile.open(check_file(index_dir, segment.files.ids))
        stored = opened(index_dir, manifest, segment.files.vectors)
        assert np.array_equal(stored.reconstruct_n(0, file.n_rows), vectors[file.ordinals])
        rows = np.arange(file.n_rows)
        metadata = file.metadata(rows)
        columns = file.take(rows, ("id", "title", "text"))
        for row, ordinal in enumerate(file.ordinals.tolist()):
            passage = passages[ordinal]
            found = {
                name: column.data[column.offsets[row] : column.offsets[row + 1]].decode()
                for name, column in columns.items()
            }
            assert found == {"id": passage.id, "title": passage.title, "text": passage.text}
            assert metadata[row] == passage.metadata
            assert ids.find(passage.id) == [row]
            assert hash64(passage.id) % n_shards == number
        assert (np.diff(file.ordinals) > 0).all()
        seen += file.ordinals.tolist()
    assert sorted(seen) == list(range(3_000))


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_training_knows_nothing_of_shards(built, recipe: str) -> None:
    """The same recipe trains to the same bytes for 1 and 4 shards, so that scores compare."""
    one, four = built(recipe, 1).manifest, built(recipe, 4).manifest
    assert one.trained == four.trained
    assert one.n_training_vectors == four.n_training_vectors == 3_000


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_shards_merged_are_the_single_index(built, recipe: str) -> None:
    """Compressed scores of four shards, merged, are the one big index's bit for bit."""
    queries = built(recipe, 1).vectors[:50] + np.float32(0.1)
    scores = {}
    for n_shards in (1, 4):
        index_dir, manifest, _ = built(recipe, n_shards)
        parts = []
        for shard in manifest.shards:
            index = opened(index_dir, manifest, shard.segments[0].files.index)
            parameters = faiss.SearchParametersIVF(nprobe=8)
            parts.append(index.search(queries, 20, params=parameters)[0])
        scores[n_shards] = -np.sort(-np.concatenate(parts, axis=1), axis=1)[:, :20]
    assert np.array_equal(scores[1], scores[4])


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_stored_vectors_are_faisss_own_bytes(built, tmp_path, metric: str) -> None:
    """The streamed vectors.faiss is, byte for byte, what faiss writes from memory."""
    index_dir, manifest, vectors = built("Flat", 1, metric)
    oracle = faiss.IndexScalarQuantizer(32, faiss.ScalarQuantizer.QT_fp16, METRICS[metric])
    oracle.add(vectors)
    faiss.write_index(oracle, str(tmp_path / "oracle"))
    path = index_dir / manifest.shards[0].segments[0].files.vectors.path
    assert path.read_bytes() == (tmp_path / "oracle").read_bytes()


def test_inspection_tells_what_was_built(built) -> None:
    """Counts, sizes, contract and the balance of the lists, ready for JSON."""
    index_dir, manifest, _ = built("IVF16,PQ8", 4)
    found = inspect_index(index_dir)
    assert (found["recipe"], found["n_shards"], found["current"]) == ("IVF16,PQ8", 4, 1)
    assert found["encoder"]["question"]["fingerprint"] == "f"
    assert [shard["n_rows"] for shard in found["shards"]] == [s.n_rows for s in manifest.shards]
    for shard in found["shards"]:
        assert shard["lists"]["n_lists"] == 16
        assert 1 <= shard["lists"]["imbalance"] < 4
        assert shard["n_bytes"]["vectors"] > 64 * shard["n_rows"]
    assert inspect_index(built("Flat", 1).index_dir)["shards"][0]["lists"] is None
