"""Float32 beside an index: bit for bit what was encoded, of all passages, and in nobody's way."""

import json

import numpy as np
import pytest

from deploy.evaluation.float32 import open_kept
from shard_server.building import BuildOptions, add_passages, build_index, verify_index
from shard_server.building.bring import GivenVectors
from shard_server.building.stored import StoredIndex
from shoal.errors import ConfigError, IndexFormatError
from shoal.formats.history import prune_versions, roll_back
from shoal.formats.manifest import Manifest
from shoal.formats.remote_pull import pull_index
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote
from shoal.formats.versions import load_manifest

N_PASSAGES, N_ADDED, CHUNK = 900, 200, 100
OPTIONS = BuildOptions(name="tiny", recipe="IVF16,PQ8x4fs", n_shards=3, seed=5, chunk_size=CHUNK)


class Whole:
    """Every passage whose number ends in 7 is cut; read on, its vector is another."""

    def __init__(self, encode) -> None:
        self.encode = encode
        self.encoder = type(encode)(encode.dim)
        tower = self.encoder.contract.passage.model_copy(update={"fingerprint": "reads on"})
        self.encoder.contract = self.encoder.contract.model_copy(update={"passage": tower})
        plain = self.encoder.vector
        self.encoder.vector = lambda text: plain(f"the whole of {text}")

    def cuts(self, titles, texts):
        return np.array([text.endswith("7") for text in texts])

    def open(self):
        return self.encoder

    def expected(self, passages) -> tuple[np.ndarray, list[int], np.ndarray]:
        """What is to be kept: as cut, the rows that were, and those read on."""
        long = [row for row, passage in enumerate(passages) if passage.text.endswith("7")]
        cut = self.encode([p.title for p in passages], [p.text for p in passages])
        of_long = [passages[row] for row in long]
        whole = self.encoder([p.title for p in of_long], [p.text for p in of_long])
        return cut, long, whole


@pytest.fixture
def passages(make_passages):
    return list(make_passages(N_PASSAGES + N_ADDED))


@pytest.fixture
def whole(encode) -> Whole:
    return Whole(encode)


def build(index_dir, passages, encode, whole, **more) -> Manifest:
    return build_index(index_dir, passages, encode, OPTIONS, keep_float32=whole, **more)


def assert_kept(index_dir, passages, whole) -> None:
    kept = open_kept(index_dir, load_manifest(index_dir))
    cut, long, read_on = whole.expected(passages)
    assert np.array_equal(kept.cut, cut)
    assert kept.whole_rows.tolist() == long
    assert np.array_equal(kept.whole, read_on)
    rounded = np.concatenate(list(StoredIndex.open(index_dir).vector_chunks()))
    assert np.array_equal(rounded, cut.astype(np.float16))
    assert verify_index(index_dir).faults == ()


def test_what_is_kept_is_what_was_encoded(tmp_path, passages, encode, whole):
    """In the order of ingestion, and the index itself is the one that keeps nothing."""
    built = passages[:N_PASSAGES]
    manifest = build(tmp_path / "index", built, encode, whole)
    assert_kept(tmp_path / "index", built, whole)
    plain = build_index(tmp_path / "plain", built, encode, OPTIONS)
    assert (manifest.trained, manifest.shards) == (plain.trained, plain.shards)
    (files,) = manifest.float32
    assert set(manifest.entries()) - set(plain.entries()) == set(files.entries())
    # which shards open, and copy from a URL
    assert not {e for shard in manifest.shards for e in shard.entries()} & set(files.entries())
    written = (tmp_path / "plain" / "versions" / "000001" / "manifest.json").read_text()
    assert "float32" not in json.loads(written)  # readers from before it take such an index


def test_without_long_texts_there_is_one_file(tmp_path, passages, encode, whole):
    """Nothing was cut, so nobody reads on."""
    whole.cuts = lambda titles, texts: np.zeros(len(texts), dtype=np.bool_)
    whole.open = None
    (files,) = build(tmp_path / "index", passages[:300], encode, whole).float32
    assert len(files.entries()) == 1
    assert len(open_kept(tmp_path / "index", load_manifest(tmp_path / "index")).whole_rows) == 0


@pytest.mark.parametrize(
    ("stage", "at", "n_cut", "n_whole"),
    [
        ("encode", 300, N_PASSAGES - 300, 90),
        ("cut texts", 1, 0, 90),
        ("whole", 40, 0, 50),
        ("fill", 1, 0, 0),
    ],
)
def test_it_goes_on_where_it_was(tmp_path, passages, encode, whole, stage, at, n_cut, n_whole):
    """What lies in a whole chunk, cut or read on, is not encoded again."""

    def interrupted(now: str, done: int, total: int | None) -> None:
        if now == stage and done >= at:
            raise KeyboardInterrupt

    options = BuildOptions(name="tiny", recipe="Flat", n_shards=2, chunk_size=20)
    built = passages[:N_PASSAGES]
    with pytest.raises(KeyboardInterrupt):
        build_index(
            tmp_path / "index", built, encode, options, interrupted, keep_float32=whole
        )  # fmt: skip
    encode.n_texts = whole.encoder.n_texts = 0
    build_index(tmp_path / "index", built, encode, options, keep_float32=whole)
    assert (encode.n_texts, whole.encoder.n_texts) == (n_cut, n_whole)
    assert_kept(tmp_path / "index", built, whole)


def test_rounded_chunks_are_not_taken_for_float32(tmp_path, passages, encode, whole):
    """A build that kept nothing leaves nothing for one that keeps."""

    def interrupted(now: str, done: int, total: int | None) -> None:
        if now == "train":
            raise KeyboardInterrupt

    built = passages[:N_PASSAGES]
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "index", built, encode, OPTIONS, interrupted)
    build(tmp_path / "index", built, encode, whole)
    assert_kept(tmp_path / "index", built, whole)


def test_additions_are_kept_too(tmp_path, passages, encode, whole):
    """Of all passages or of none: an addition by who can't keep them ends it for its version."""
    index_dir = tmp_path / "index"
    build(index_dir, passages[:N_PASSAGES], encode, whole)
    add_passages(index_dir, passages[N_PASSAGES:], encode, keep_float32=whole, chunk_size=CHUNK)
    assert_kept(index_dir, passages, whole)
    roll_back(index_dir)
    assert_kept(index_dir, passages[:N_PASSAGES], whole)
    manifest = add_passages(index_dir, passages[N_PASSAGES:], encode, chunk_size=CHUNK)
    assert manifest.float32 == ()
    before = {entry.path for entry in load_manifest(index_dir, 1).float32[0].entries()}
    prune_versions(index_dir, keep=1)
    assert not any((index_dir / path).exists() for path in before)
    assert verify_index(index_dir).faults == ()


def test_an_index_that_keeps_none_gets_none(tmp_path, passages, encode, whole):
    """Float32 of the added alone would be of no use."""
    build_index(tmp_path / "index", passages[:N_PASSAGES], encode, OPTIONS)
    added = add_passages(tmp_path / "index", passages[N_PASSAGES:], encode, keep_float32=whole)
    assert added.float32 == ()
    assert whole.encoder.n_texts == 0


def test_it_travels_with_the_index(tmp_path, passages, encode, whole):
    """Pushed and pulled like every file of a version."""
    built = passages[:300]
    build(tmp_path / "index", built, encode, whole)
    url = f"file://{tmp_path / 'there'}"
    push_index(tmp_path / "index", open_remote(url), lambda *_: None)
    pull_index(open_remote(url), tmp_path / "pulled", lambda *_: None)
    assert_kept(tmp_path / "pulled", built, whole)


def test_what_was_altered_is_not_believed(tmp_path, passages, encode, whole):
    """By its checksum, and by its shape."""
    manifest = build(tmp_path / "index", passages[:300], encode, whole)
    (files,) = manifest.float32
    path = tmp_path / "index" / files.cut.path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexFormatError, match="SHA-256"):
        open_kept(tmp_path / "index", manifest)
    path.write_bytes(content)
    swapped = files.model_copy(update={"cut": files.whole})
    with pytest.raises(IndexFormatError, match=r"expected float32 \(300, 32\)"):
        open_kept(tmp_path / "index", manifest.model_copy(update={"float32": (swapped,)}))
    with pytest.raises(ValueError, match="float32 holds 299 rows, the index 300"):
        Manifest.model_validate(
            {**dict(manifest), "float32": [files.model_copy(update={"n_rows": 299})]}
        )


def test_given_vectors_are_not_kept(tmp_path, passages, encode, whole, rng):
    """Nothing was encoded, so nothing was rounded here."""
    given = GivenVectors([rng.standard_normal((300, 32))], 32, where="v.npy", origin="v")
    with pytest.raises(ConfigError, match="--keep-float32 keeps what the encoder makes"):
        build(tmp_path / "index", passages[:300], given, whole)
    encode.contract = None
    with pytest.raises(ConfigError, match="--keep-float32 keeps what the encoder makes"):
        build(tmp_path / "index", passages[:300], encode, whole)
    assert not (tmp_path / "index").exists()
