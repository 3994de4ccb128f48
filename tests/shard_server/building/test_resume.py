"""An interrupted build goes on where it was, with what fits and nothing else."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from shard_server.building import BuildOptions, add_passages, build_index, verify_index, workspace
from shard_server.building.bring import bare_passages, vectors_of
from shard_server.building.chunk_file import ChunkFile, plan_chunks
from shard_server.building.space import shutil as space_shutil
from shard_server.building.staging import key_of
from shard_server.building.stored import StoredIndex
from shard_server.building.vector_files import open_vector_file
from shoal.errors import ConfigError, CorpusError, StorageError
from shoal.formats.files import builder_lock
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest

N_PASSAGES, CHUNK = 3_000, 100
OPTIONS = BuildOptions(name="tiny", recipe="IVF16,PQ8x4fs", n_shards=3, seed=5, chunk_size=CHUNK)


class Interrupted:
    """A progress that ends the build as Ctrl-C does, once a stage has come so far."""

    def __init__(self, stage: str = "", at: int = 0) -> None:
        self.stage, self.at = stage, at
        self.kept: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        kept, _, of_stage = stage.partition(" ")
        if kept == "kept":
            self.kept[of_stage] = done
        if stage == self.stage and done >= self.at:
            raise KeyboardInterrupt


@pytest.fixture
def passages(make_passages):
    return list(make_passages(N_PASSAGES))


@pytest.fixture
def whole(built) -> Manifest:
    """The same build, never interrupted."""
    return built(OPTIONS.recipe, OPTIONS.n_shards).manifest


def interrupt(index_dir: Path, passages, encode, stage: str, at: int, options=OPTIONS) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(index_dir, passages, encode, options, Interrupted(stage, at))
    encode.n_texts = 0


def files_of(manifest: Manifest):
    return (manifest.trained, manifest.shards)


@pytest.mark.parametrize(
    ("stage", "at", "n_encoded", "kept"),
    [
        ("read", 1, N_PASSAGES, set()),
        ("encode", CHUNK, N_PASSAGES - CHUNK, {"encode"}),
        ("encode", 1_500, N_PASSAGES - 1_500, {"encode"}),
        ("train", 3, 0, {"encode"}),
        ("fill", 0, 0, {"encode", "train"}),
        ("fill", N_PASSAGES, 0, {"encode", "train"}),
        ("fill", N_PASSAGES + 1, 0, {"encode", "train", "partition", "fill"}),
        ("fill", 2 * N_PASSAGES, 0, {"encode", "train", "partition", "fill"}),
    ],
)
def test_a_build_goes_on_where_it_was(
    tmp_path, passages, encode, whole, stage, at, n_encoded, kept
):
    """Finished stages are not done again, and the index is the uninterrupted one, hash for hash."""
    interrupt(tmp_path / "index", passages, encode, stage, at)
    progress = Interrupted()
    manifest = build_index(tmp_path / "index", passages, encode, OPTIONS, progress)
    assert encode.n_texts == n_encoded
    assert set(progress.kept) == kept
    assert files_of(manifest) == files_of(whole)
    assert verify_index(tmp_path / "index").faults == ()
    assert not (tmp_path / "index" / ".staging").exists()


def test_an_encoder_that_dies_costs_its_chunk_alone(tmp_path, passages, encode, whole):
    """A failure of the encoder is no reason to lose what it did."""
    index_dir = tmp_path / "index"
    make = encode.vector

    def dying(text: str) -> np.ndarray:
        if text.endswith("passage 1234"):
            raise ConfigError("out of GPU memory")
        return make(text)

    encode.vector = dying
    with pytest.raises(ConfigError, match="GPU memory"):
        build_index(index_dir, passages, encode, OPTIONS)
    assert encode.n_texts == 1_300
    encode.vector, encode.n_texts = make, 0
    manifest = build_index(index_dir, passages, encode, OPTIONS)
    assert encode.n_texts == N_PASSAGES - 1_200
    assert files_of(manifest) == files_of(whole)


def changed(passages, place: int, **changes):
    return [
        *passages[:place],
        dataclasses.replace(passages[place], **changes),
        *passages[place + 1 :],
    ]


@pytest.mark.parametrize(
    ("what", "n_encoded", "kept"),
    [
        ("same", 0, {"encode", "train", "partition", "fill"}),
        ("recipe", 0, {"encode", "partition"}),
        ("shards", 0, {"encode", "train"}),
        ("metric", 0, {"encode"}),
        ("metadata", 0, {"encode", "train", "fill"}),
        ("text", N_PASSAGES, set()),
        ("one more", N_PASSAGES - 1, set()),
        ("restart", N_PASSAGES, set()),
        # both encode again, to vectors that turn out the same
        ("encoder", N_PASSAGES, {"train", "fill"}),
        ("nameless", N_PASSAGES, {"train", "fill"}),
    ],
)
def test_only_what_fits_is_used_again(tmp_path, passages, encode, what, n_encoded, kept):
    """Each stage goes by its own inputs: another recipe needs no other vectors."""
    interrupt(tmp_path / "index", passages, encode, "fill", 2 * N_PASSAGES)
    options = {
        "recipe": dataclasses.replace(OPTIONS, recipe="IVF32,SQ8"),
        "shards": dataclasses.replace(OPTIONS, n_shards=2),
        "metric": dataclasses.replace(OPTIONS, metric="l2"),
        "restart": dataclasses.replace(OPTIONS, restart=True),
    }.get(what, OPTIONS)
    corpus = {
        "metadata": changed(passages, 7, metadata={"number": 8}),
        "text": changed(passages, 7, text="another"),
        "one more": passages[:-1],
    }.get(what, passages)
    if what == "encoder":
        tower = encode.contract.passage.model_copy(update={"fingerprint": "another"})
        encode.contract = encode.contract.model_copy(update={"passage": tower})
    if what == "nameless":
        encode.contract = None
    progress = Interrupted()
    manifest = build_index(tmp_path / "index", corpus, encode, options, progress)
    assert encode.n_texts == n_encoded
    assert set(progress.kept) == kept
    straight = build_index(tmp_path / "straight", corpus, encode, options)
    assert files_of(manifest) == files_of(straight)
    assert verify_index(tmp_path / "index").faults == ()


def test_a_nameless_encoder_s_stages_are_its_own(tmp_path, passages, encode, monkeypatch):
    """A killed build leaves them, and the next nameless encoder may be another one: it would get
    an index of the first one's vectors."""
    encode.contract = None
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "_abandon", lambda *_, **__: None)  # as SIGKILL does
        interrupt(tmp_path / "index", passages, encode, "fill", 2 * N_PASSAGES)
    assert list((tmp_path / "index").glob(".staging/split-*"))
    make = encode.vector
    encode.vector = lambda text: make(f"another {text}")
    progress = Interrupted()
    manifest = build_index(tmp_path / "index", passages, encode, OPTIONS, progress)
    assert not progress.kept
    straight = build_index(tmp_path / "straight", passages, encode, OPTIONS)
    assert files_of(manifest) == files_of(straight)


def staged(index_dir: Path, pattern: str) -> Path:
    (path,) = (index_dir / ".staging").glob(pattern)
    return path


@pytest.mark.parametrize(
    ("pattern", "n_encoded", "lost"),
    [
        ("encode-*/vectors.f16", CHUNK, set()),
        ("sample-*/sample.f32", 0, set()),
        ("train-*/trained.faiss", 0, set()),
        ("split-*/shard-0001/passages.arrow", 0, {"partition"}),
    ],
)
def test_kept_work_is_proved_first(tmp_path, passages, encode, whole, pattern, n_encoded, lost):
    """What the disk lost or altered is made again: nothing is believed before its hash holds."""
    index_dir = tmp_path / "index"
    interrupt(index_dir, passages, encode, "fill", 2 * N_PASSAGES)
    path = staged(index_dir, pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    progress = Interrupted()
    manifest = build_index(index_dir, passages, encode, OPTIONS, progress)
    assert encode.n_texts == n_encoded
    assert not lost & set(progress.kept)
    assert files_of(manifest) == files_of(whole)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_chunk_cut_short_is_made_again(tmp_path, order):
    """At any length of the two files, and in any order: whole chunks count, and no others."""
    rows = np.arange(12, dtype=np.float16).reshape(6, 2)
    chunks = plan_chunks([6], 2)
    with ChunkFile(tmp_path, 2) as file:
        for number in order:
            file.put(chunks[number], rows[2 * number : 2 * number + 2])
    contents = {name: (tmp_path / name).read_bytes() for name in ("vectors.f16", "sums")}
    assert contents["vectors.f16"] == rows.tobytes()
    assert len(contents["sums"]) == 24
    for n_rows_bytes in range(25):
        for n_sums_bytes in range(25):
            (tmp_path / "vectors.f16").write_bytes(contents["vectors.f16"][:n_rows_bytes])
            (tmp_path / "sums").write_bytes(contents["sums"][:n_sums_bytes])
            with ChunkFile(tmp_path, 2) as file:
                left = file.unfinished(chunks)
                assert left == chunks[min(n_rows_bytes // 8, n_sums_bytes // 8) :]
                for chunk in reversed(left):
                    file.put(chunk, rows[chunk.start : chunk.start + 2])
            assert (tmp_path / "vectors.f16").read_bytes() == contents["vectors.f16"]
            assert (tmp_path / "sums").read_bytes() == contents["sums"]


def test_chunks_done_out_of_order_are_kept(tmp_path):
    """Many encoders finish as they like: a chunk behind a hole is as whole as any other."""
    rows = np.arange(14, dtype=np.float16).reshape(7, 2)
    chunks = plan_chunks([4, 3], 2)
    assert [chunk.n_rows for chunk in chunks] == [2, 2, 2, 1]
    with ChunkFile(tmp_path, 2) as file:
        for chunk in (chunks[3], chunks[1]):
            file.put(chunk, rows[chunk.start : chunk.start + chunk.n_rows])
    with ChunkFile(tmp_path, 2) as file:
        assert file.unfinished(chunks) == [chunks[0], chunks[2]]


def test_an_addition_goes_on_where_it_was(tmp_path, passages, encode):
    """With --replace too: its segments are those of an addition that nobody interrupted."""
    more = [*changed(passages[:50], 7, text="anew"), *passages[2_000:]]
    manifests = []
    for name in ("straight", "index"):
        build_index(tmp_path / name, passages[:2_000], encode, OPTIONS)
        encode.n_texts = 0
        if name == "index":
            with pytest.raises(KeyboardInterrupt):
                add_passages(
                    tmp_path / name, more, encode, Interrupted("fill", 1_100), replace_known=True
                )
            assert load_manifest(tmp_path / name).version == 1
            assert verify_index(tmp_path / name).n_unfinished_bytes > 0
        manifests.append(add_passages(tmp_path / name, more, encode, replace_known=True))
        assert encode.n_texts == len(more)
        assert verify_index(tmp_path / name).faults == ()
    assert files_of(manifests[0]) == files_of(manifests[1])


@pytest.mark.parametrize("what", ["same", "touched"])
def test_given_vectors_go_on_where_they_were(tmp_path, rng, what: str):
    """Vectors from a file are known by its path, size and time of change."""
    path = tmp_path / "x.npy"
    np.save(path, rng.standard_normal((2_500, 16), dtype=np.float32))
    options = BuildOptions(name="bare", recipe="SQ8")

    def build(progress):
        file = open_vector_file(str(path))
        return build_index(
            tmp_path / "index", bare_passages(file), vectors_of(file), options, progress
        )

    with pytest.raises(KeyboardInterrupt):
        build(Interrupted("encode", 2_048))
    if what == "touched":
        np.save(path, rng.standard_normal((2_500, 16), dtype=np.float32))
    progress = Interrupted()
    manifest = build(progress)
    assert progress.kept == ({"encode": 2_048} if what == "same" else {})
    file = open_vector_file(str(path))
    straight = build_index(tmp_path / "straight", bare_passages(file), vectors_of(file), options)
    assert files_of(manifest) == files_of(straight)


def test_an_index_from_an_index_goes_on(tmp_path, passages, encode, whole):
    """A version is known by its manifest's hash."""
    build_index(tmp_path / "source", passages, encode, dataclasses.replace(OPTIONS, recipe="Flat"))

    def build(progress):
        source = StoredIndex.open(tmp_path / "source")
        return build_index(
            tmp_path / "index", source.passages(), source.encode(), OPTIONS, progress
        )

    with pytest.raises(KeyboardInterrupt):
        build(Interrupted("train", 2))
    progress = Interrupted()
    assert files_of(build(progress)) == files_of(whole)
    assert progress.kept == {"encode": N_PASSAGES}


def test_an_unfinished_build_is_no_fault(tmp_path, passages, encode):
    """verify tells of it apart; the live version is sound, and others' builds are refused."""
    index_dir = tmp_path / "index"
    build_index(index_dir, passages[:100], encode, dataclasses.replace(OPTIONS, recipe="Flat"))
    interrupt(
        index_dir, passages, encode, "fill", 6_000, dataclasses.replace(OPTIONS, overwrite=True)
    )
    report = verify_index(index_dir)
    assert report.faults == ()
    assert report.n_unfinished_bytes > 2 * 32 * N_PASSAGES
    with builder_lock(index_dir):
        assert verify_index(index_dir).faults == ()


def test_a_mistaken_corpus_costs_no_work(tmp_path, passages, encode):
    """A fault in another corpus leaves the interrupted one's vectors where they are."""
    index_dir = tmp_path / "index"
    interrupt(index_dir, passages, encode, "train", 1)
    with pytest.raises(CorpusError):
        build_index(index_dir, [], encode, OPTIONS)
    with pytest.raises(ConfigError, match="needs at least"):
        build_index(index_dir, passages[:9], encode, OPTIONS)
    build_index(index_dir, passages, encode, OPTIONS)
    assert encode.n_texts == 0


def test_a_build_that_will_not_fit_is_refused_with_figures(tmp_path, passages, encode, monkeypatch):
    """Before it encodes; what an interrupted one encoded stays, and counts."""
    index_dir = tmp_path / "index"
    usage = space_shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(space_shutil, "disk_usage", lambda _: usage._replace(free=200_000))
        with pytest.raises(StorageError, match=r"needs 1\.\d MB, and 0\.2 MB were free"):
            build_index(index_dir, passages, encode, OPTIONS)
        assert encode.n_texts == 0
        assert not index_dir.exists()
    interrupt(index_dir, passages, encode, "train", 1)
    with monkeypatch.context() as patch:
        patch.setattr(space_shutil, "disk_usage", lambda _: usage._replace(free=200_000))
        with pytest.raises(StorageError, match=r"needs 0\.\d MB"):
            build_index(index_dir, passages, encode, OPTIONS)
        # what lies there of another corpus is no help to this one
        with pytest.raises(StorageError, match=r"needs 1\.\d MB"):
            build_index(index_dir, changed(passages, 7, text="another"), encode, OPTIONS)
    build_index(index_dir, passages, encode, OPTIONS)
    assert encode.n_texts == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_leaves_nothing(tmp_path, passages, encode, monkeypatch, code: int):
    """Whichever sync is refused, CURRENT stands, and no file is left; a full disk has figures.

    But for the last, which only confirms that CURRENT has turned: the message says so.
    """
    index_dir = tmp_path / "index"
    small = dataclasses.replace(OPTIONS, recipe="SQ8", n_shards=1, overwrite=True)
    build_index(index_dir, passages[:100], encode, small)
    before = sorted(index_dir.rglob("*"))
    sync, left = os.fsync, [1_000]

    def refuse(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    build_index(tmp_path / "whole", passages[:500], encode, small)
    n_syncs = 1_000 - left[0]
    message = "the build needs .* free as it began" if code == errno.ENOSPC else "can't be written"
    for at in np.linspace(0, n_syncs - 1, 6, dtype=int).tolist():
        left[0] = at
        is_last = at == n_syncs - 1
        with pytest.raises(StorageError, match="version 2 is live, but" if is_last else message):
            build_index(index_dir, passages[:500], encode, small)
        after = sorted(index_dir.rglob("*"))
        assert load_manifest(index_dir).version == 1 + is_last
        if not is_last:
            assert after == before
        assert verify_index(index_dir).faults == ()


def test_a_key_goes_by_values_alone():
    """The same inputs in any order have one key, and a string is not the number it spells."""
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert len({key_of({"a": value}) for value in (1, "1", None, [1], 2)}) == 5
