"""Vectors come in as they are, from every kind of file; what can't be indexed is told by row."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shard_server.building import BuildOptions, build_index, inspect_index, read_corpus
from shard_server.building.bring import GivenVectors, bare_passages, matched, vectors_of
from shard_server.building.vector_files import open_vector_file
from shard_server.building.vectors import read_stored
from shoal.errors import CorpusError
from shoal.formats.passages import PassageFile

N_ROWS, DIM = 9_000, 12


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(5).standard_normal((N_ROWS, DIM)).astype(np.float16)


def save(path, matrix):
    """Write `matrix` the way the file's suffix says; returns what --vectors takes."""
    match path.suffix:
        case ".npy":
            np.save(path, matrix)
        case ".fvecs":
            prefix = np.full((len(matrix), 1), matrix.shape[1], dtype="<i4").view("<f4")
            np.hstack([prefix, matrix.astype("<f4")]).tofile(path)
        case ".parquet":
            column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
            pq.write_table(pa.table({"n": range(len(matrix)), "v": column}), path)
        case ".hdf5":
            with h5py.File(path, "w") as file:
                file["train"], file["test"] = matrix, matrix[:5]
    return str(path)


def read(source):
    file = open_vector_file(source)
    return file, np.concatenate(list(file.chunks()))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".parquet", ".hdf5"])
def test_every_kind_gives_the_same_rows(tmp_path, matrix, suffix, dtype):
    """Count and dimension are known beforehand, and the rows are the file's."""
    file, rows = read(save(tmp_path / f"x{suffix}", matrix.astype(dtype)))
    assert (file.n_rows, file.dim) == (N_ROWS, DIM)
    assert max(len(chunk) for chunk in file.chunks()) <= 8_192
    np.testing.assert_array_equal(rows, matrix)


def test_a_part_is_chosen_by_name(tmp_path, matrix):
    """HDF5 takes `train` unless told; Parquet takes its one column of vectors, or the named one."""
    source = save(tmp_path / "x.hdf5", matrix)
    np.testing.assert_array_equal(read(f"{source}:test")[1], matrix[:5])
    lists = pa.array(matrix[:7].astype("f4").tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"a": lists, "b": lists}), tmp_path / "two.parquet")
    np.testing.assert_array_equal(read(f"{tmp_path}/two.parquet:b")[1], matrix[:7])
    with pytest.raises(CorpusError, match=r"2 columns of float lists \(a, b\); name one"):
        open_vector_file(f"{tmp_path}/two.parquet")


def test_a_fortran_ordered_file_is_read_alike(tmp_path, matrix):
    """numpy writes columns first where the array was a transpose."""
    np.save(tmp_path / "x.npy", np.asfortranarray(matrix))
    np.testing.assert_array_equal(read(f"{tmp_path}/x.npy")[1], matrix)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", np.zeros(5, "f4"), "has shape (5,); vectors are the rows of a table"),
        ("x.npy", np.zeros((5, 2), "i8"), "holds int64; float16, float32 or float64 are read"),
        ("x.npy", np.zeros((0, 2), "f4"), "holds no vectors"),
        ("x.npy", np.zeros((2, 0), "f4"), "holds no vectors"),
        ("x.npy", np.array([{}], dtype=object), "can't be read as .npy"),
        ("x.npy", b"no numpy", "can't be read as .npy"),
        ("x.fvecs", b"\2\0\0\0" + b"1234" * 3, "no whole number of vectors of 2 dimensions"),
        ("x.fvecs", b"", "holds no vectors"),
        ("x.parquet", b"PAR1", "can't be read as .parquet"),
        ("x.hdf5", b"no hdf", "can't be read as .hdf5"),
        ("x.txt", b"1 2 3", "unknown kind of vectors; --vectors takes FILE.npy"),
    ],
)
def test_a_file_that_is_no_table_of_floats_is_refused(tmp_path, name, content, says):
    """One message, with the file and what is read."""
    path = tmp_path / name.partition(":")[0]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name == "x.npy":
        np.save(path, content, allow_pickle=True)
    with pytest.raises(CorpusError) as refusal:
        open_vector_file(str(tmp_path / name))
    assert str(refusal.value.message).startswith(str(path))
    assert says in refusal.value.message


def test_a_part_of_a_file_without_parts_is_refused(tmp_path, matrix):
    """An .npy holds one array."""
    with pytest.raises(CorpusError, match="leave 'a' out"):
        open_vector_file(save(tmp_path / "x.npy", matrix) + ":a")


def test_a_cut_file_is_refused(tmp_path, matrix):
    """A download that stopped midway holds fewer bytes than its header says."""
    for suffix in (".npy", ".fvecs", ".parquet", ".hdf5"):
        path = tmp_path / f"x{suffix}"
        save(path, matrix)
        path.write_bytes(path.read_bytes()[:-1001])
        with pytest.raises(CorpusError, match=str(path)):
            open_vector_file(str(path))


def test_rows_of_other_lengths_are_told_by_row(tmp_path, matrix):
    """The first odd row is named, in .fvecs and in Parquet, and so is a null."""
    path = tmp_path / "x.fvecs"
    save(path, matrix)
    content = bytearray(path.read_bytes())
    content[8_500 * 4 * (DIM + 1)] = 3
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"row 8500 does not have 12 dimensions"):
        read(str(path))
    for odd, says in (([1.0], "row 2 has 1 dimensions; row 0 has 2"), (None, "row 2 is null"),
                      ([1.0, None], "row 2 holds a null")):  # fmt: skip
        table = pa.table({"v": pa.array([[1.0, 2.0], [3.0, 4.0], odd], pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(CorpusError, match=says):
            read(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65_520.0, 1e300])
def test_values_that_no_index_holds_are_told_by_row(value):
    """NaN, infinity and what float16 can't hold end the import, with the row's number."""
    rows = np.zeros((50, 3))
    rows[41, 1] = value
    given = GivenVectors([rows[:30], rows[30:]], 3, where="x.npy")
    given([""] * 40, [""] * 40)
    with pytest.raises(CorpusError, match=r"x.npy: row 41 holds NaN, infinity"):
        given([""] * 10, [""] * 10)


def test_any_chunks_make_the_same_vectors(matrix):
    """What is asked for need not fall on the file's chunks, and what was taken can be skipped."""
    given = GivenVectors(np.array_split(matrix, 7), DIM, where="x")
    found = [given([""] * n, [""] * n) for n in (1, 3_000, 1, 5_000)]
    np.testing.assert_array_equal(np.concatenate(found), matrix[:8_002])
    again = GivenVectors(np.array_split(matrix, 3), DIM, where="x")
    again.skip_to(8_999)
    np.testing.assert_array_equal(again([""], [""]), matrix[-1:])
    with pytest.raises(CorpusError, match="ends after 9000 vectors"):
        again([""], [""])


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".parquet", ".hdf5"])
def test_bare_vectors_become_an_index(tmp_path, matrix, suffix):
    """Ids are row numbers, the encoder is null, and what is stored is what was given."""
    file = open_vector_file(save(tmp_path / f"x{suffix}", matrix))
    options = BuildOptions(name="bare", recipe="IVF16,PQ4x4fs")
    manifest = build_index(tmp_path / "index", bare_passages(file), vectors_of(file), options)
    assert (manifest.encoder, manifest.n_live, manifest.dim) == (None, N_ROWS, DIM)
    assert inspect_index(tmp_path / "index")["encoder"] is None
    files = manifest.shards[0].segments[0].files
    stored = read_stored(tmp_path / "index" / files.vectors.path, DIM)
    np.testing.assert_array_equal(stored, matrix)
    ids = PassageFile.open(tmp_path / "index" / files.passages.path).take(
        np.array([0, 8_999]), ["id", "text"]
    )
    assert (ids["id"].data, ids["text"].data) == (b"08999", b"")


@pytest.mark.parametrize(
    ("n_passages", "says"),
    [(9, "made-up:9: passage 9 has no vector; .* holds 8"), (7, "holds 8 vectors, the corpus 7")],
)
def test_a_corpus_of_another_number_is_refused(tmp_path, make_passages, n_passages, says):
    """Vectors and passages are told apart before anything is built, and nothing is left behind."""
    file = open_vector_file(save(tmp_path / "x.npy", np.ones((8, 3), "f4")))
    passages = matched(make_passages(n_passages), file)
    with pytest.raises(CorpusError, match=says):
        build_index(tmp_path / "index", passages, vectors_of(file), BuildOptions(name="x"))
    assert not (tmp_path / "index").exists()


def test_a_corpus_keeps_its_passages(tmp_path, make_passages, matrix):
    """With a corpus, row i is the vector of passage i, whatever the shard."""
    file = open_vector_file(save(tmp_path / "x.npy", matrix[:500]))
    options = BuildOptions(name="x", n_shards=3)
    manifest = build_index(
        tmp_path / "index", matched(make_passages(500), file), vectors_of(file), options
    )
    for shard in manifest.shards:
        files = shard.segments[0].files
        ordinals = PassageFile.open(tmp_path / "index" / files.passages.path).ordinals
        stored = read_stored(tmp_path / "index" / files.vectors.path, DIM)
        np.testing.assert_array_equal(stored, matrix[ordinals])


def test_one_parquet_file_brings_both(tmp_path, matrix):
    """Passages and their vectors in one table, as data sets are published."""
    table = pa.table({
        "id": [f"p{i}" for i in range(20)],
        "text": [f"text {i}" for i in range(20)],
        "page": range(20),
        "embedding": pa.array(matrix[:20].tolist(), pa.list_(pa.float16())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    file = open_vector_file(f"{tmp_path}/x.parquet")
    passages = matched(read_corpus(f"{tmp_path}/x.parquet"), file)
    options = BuildOptions(name="x")
    manifest = build_index(tmp_path / "index", passages, vectors_of(file), options)
    assert manifest.metadata_columns == {"page": "int64"}
    assert manifest.n_live == 20
