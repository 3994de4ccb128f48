"""Whatever goes wrong, one clear error says so and the folder is as it was."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from shard_server.building import BuildOptions, Passage, build_index, verify_index
from shard_server.building.vectors import write_index
from shard_server.building.workspace import open_workspace
from shoal.errors import ConfigError, CorpusError, LockedError, ShoalError, StorageError
from shoal.formats.files import builder_lock
from shoal.formats.versions import load_manifest

OPTIONS = BuildOptions(name="tiny", n_shards=2)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def broken(passages: Iterator[Passage]) -> Iterator[Passage]:
    yield from passages
    raise CorpusError("corpus.jsonl:101: not JSON")


class WrongEncode:
    """Answers with one bad value in its last row."""

    contract = None
    dim = 8

    def __init__(self, value: float = 0.0, dim: int = 8) -> None:
        self.value, self.answer_dim = value, dim

    def __call__(self, titles, texts) -> np.ndarray:
        vectors = np.ones((len(texts), self.answer_dim), dtype=np.float32)
        vectors[-1, -1] = self.value
        return vectors


@pytest.mark.parametrize("exists", [False, True])
def test_a_broken_corpus_leaves_nothing(tmp_path, make_passages, encode, exists: bool) -> None:
    """A fault in the last line undoes all, before any encoding, and a new folder goes again."""
    index_dir = tmp_path / "index"
    if exists:
        index_dir.mkdir()
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:101"):
        build_index(index_dir, broken(make_passages(100)), encode, OPTIONS)
    assert encode.n_texts == 0
    assert index_dir.exists() == exists
    assert not exists or list(index_dir.iterdir()) == []


def test_duplicate_ids_name_both_places(tmp_path, make_passages, encode) -> None:
    """Across batches too, and before any encoding."""
    passages = [*make_passages(9_000), Passage(id="p17", title="", text="x", where="other:5")]
    with pytest.raises(CorpusError, match=r"^other:5: id 'p17' was used at made-up:18$"):
        build_index(tmp_path / "index", passages, encode, OPTIONS)
    assert encode.n_texts == 0


def test_equal_hashes_are_not_yet_duplicates(tmp_path, make_passages, encode, monkeypatch) -> None:
    """Two ids of one hash are two passages: the ids decide."""
    monkeypatch.setattr("shard_server.building.stage.hash64", len)
    manifest = build_index(tmp_path / "index", make_passages(100), encode, OPTIONS)
    assert manifest.n_rows == 100
    assert verify_index(tmp_path / "index").faults == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70_000.0])
def test_vectors_that_cannot_be_stored_are_refused(tmp_path, make_passages, value: float) -> None:
    """NaN would shift faiss's rows, and float16 ends at 65,504."""
    with pytest.raises(ConfigError, match="NaN, infinity or a value beyond float16"):
        build_index(tmp_path / "index", make_passages(10), WrongEncode(value), OPTIONS)
    assert not (tmp_path / "index").exists()


def test_vectors_of_another_shape_are_refused(tmp_path, make_passages) -> None:
    """The encoder's own dimension is held against its answers."""
    with pytest.raises(ConfigError, match=r"answered \(10, 9\) for 10 passages of 8"):
        build_index(tmp_path / "index", make_passages(10), WrongEncode(dim=9), OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Upper"}, "index name"),
        ({"n_shards": 0}, "shards is 0"),
        ({"n_shards": 257}, "shards is 257"),
        ({"recipe": "HNSW32"}, "not supported"),
        ({"recipe": "IVF4,PQ8"}, "at least 256 passages"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_impossible_options_are_refused(tmp_path, make_passages, encode, changes, message) -> None:
    """Before anything is encoded."""
    options = BuildOptions(**({"name": "tiny"} | changes))
    with pytest.raises(ConfigError, match=message):
        build_index(tmp_path / "index", make_passages(100), encode, options)
    assert encode.n_texts == 0
    assert not (tmp_path / "index").exists()


def test_a_second_builder_is_refused_at_once(tmp_path, make_passages, encode) -> None:
    """It waits for nobody and disturbs nothing."""
    index_dir = tmp_path / "index"
    build_index(index_dir, make_passages(100), encode, OPTIONS)
    before = snapshot(index_dir)
    options = BuildOptions(name="tiny", overwrite=True)
    with builder_lock(index_dir), pytest.raises(LockedError, match="another build"):
        build_index(index_dir, make_passages(100), encode, options)
    assert snapshot(index_dir) == before


def test_an_index_is_not_overwritten_unasked(tmp_path, make_passages, encode) -> None:
    """Asked, the next version is built, ordinals go on, and the old version stays readable."""
    index_dir = tmp_path / "index"
    build_index(index_dir, make_passages(100), encode, OPTIONS)
    with pytest.raises(ConfigError, match=r"holds index 'tiny', version 1.*--overwrite"):
        build_index(index_dir, make_passages(10), encode, OPTIONS)
    options = BuildOptions(name="other", overwrite=True)
    with pytest.raises(ConfigError, match="can't be called 'other'"):
        build_index(index_dir, make_passages(10), encode, options)
    second = build_index(
        index_dir, make_passages(10), encode, BuildOptions(name="tiny", overwrite=True)
    )
    assert (second.version, second.n_rows, second.next_ordinal) == (2, 10, 110)
    assert load_manifest(index_dir) == second
    assert load_manifest(index_dir, 1).n_rows == 100
    assert verify_index(index_dir).faults == ()


def test_a_failed_second_version_leaves_the_first(tmp_path, make_passages, encode) -> None:
    """Byte for byte."""
    index_dir = tmp_path / "index"
    build_index(index_dir, make_passages(100), encode, OPTIONS)
    before = snapshot(index_dir)
    options = BuildOptions(name="tiny", overwrite=True)
    with pytest.raises(ConfigError):
        build_index(index_dir, make_passages(100), WrongEncode(np.nan), options)
    with pytest.raises(CorpusError):
        build_index(index_dir, broken(make_passages(100)), encode, options)
    assert snapshot(index_dir) == before


def test_files_already_adopted_go_with_a_failed_build(tmp_path) -> None:
    """Data moved into place before the failure is taken away again."""

    def fail_after_adopting() -> None:
        with open_workspace(tmp_path / "index", overwrite=False) as workspace:
            output, _ = workspace.staging.make(
                "sample", {}, lambda folder: (folder / "x").write_bytes(b"x")
            )
            entry = workspace.publish(output, "x")
            assert (tmp_path / "index" / entry.path).exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_adopting()
    assert not (tmp_path / "index").exists()


def test_folders_of_others_are_left_alone(tmp_path, make_passages, encode) -> None:
    """A wrong --index must not mix an index into somebody's files."""
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(ConfigError, match=r"no index folder \(it holds 'thesis.doc'\)"):
        build_index(tmp_path, make_passages(10), encode, OPTIONS)
    with pytest.raises(ConfigError, match="is a file"):
        build_index(tmp_path / "thesis.doc", make_passages(10), encode, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


KILLED_BUILD = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from shard_server.building import BuildOptions, Passage, build_index
    from shard_server.building import build as building

    class Encode:
        contract, dim = None, 8
        def __call__(self, titles, texts):
            if sys.argv[2] == "encode":
                os.kill(os.getpid(), signal.SIGKILL)
            return np.ones((len(texts), 8), dtype=np.float32)

    if sys.argv[2] == "commit":
        building.commit_version = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "turn":
        real_replace = os.replace
        def replace(source, target):
            if Path(target).name == "CURRENT":
                os.kill(os.getpid(), signal.SIGKILL)
            real_replace(source, target)
        os.replace = replace
    passages = (Passage(id=f"{n}", title="", text="x", where="") for n in range(10))
    options = BuildOptions(name="tiny", overwrite=True)
    build_index(Path(sys.argv[1]), passages, Encode(), options)
"""


@pytest.mark.parametrize("moment", ["encode", "commit", "turn"])
@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_build_left_is_swept(
    tmp_path, make_passages, encode, moment: str, exists: bool
) -> None:
    """Fault 17: SIGKILL leaves rests, never a half version; the next build clears them away."""
    index_dir = tmp_path / "index"
    if exists:
        build_index(index_dir, make_passages(100), encode, OPTIONS)
    code = textwrap.dedent(KILLED_BUILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(index_dir), moment], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (index_dir / ".CURRENT.partial").exists() == (moment == "turn")
    if exists:
        assert load_manifest(index_dir).version == 1
        assert verify_index(index_dir).faults == ()
        assert verify_index(index_dir).n_unfinished_bytes > 0
    options = BuildOptions(name="tiny", overwrite=True)
    manifest = build_index(index_dir, make_passages(50), encode, options)
    assert manifest.version == 1 + exists
    assert verify_index(index_dir).faults == ()
    assert verify_index(index_dir).n_unfinished_bytes == 0
    assert not [path for path in index_dir.rglob("*") if "partial" in path.name]


def test_a_full_disk_is_one_error(tmp_path, make_passages, encode) -> None:
    """With files limited to 100 kB, as by a quota, the build says so and leaves nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="can't be written"):
            build_index(tmp_path / "index", make_passages(20_000), encode, OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("n_vectors", [1, 10_000])
def test_an_index_that_does_not_fit_the_disk_is_no_index(n_vectors: int) -> None:
    """Whether the disk refuses while writing or only when the file is closed."""
    index = faiss.IndexFlatL2(8)
    index.add(np.zeros((n_vectors, 8), dtype=np.float32))
    with pytest.raises(StorageError, match="/dev/full: can't be written"):
        write_index(index, Path("/dev/full"))


@pytest.mark.parametrize("kind", ["bit", "cut", "gone", "stranger"])
def test_verify_names_what_is_wrong(tmp_path, make_passages, encode, kind: str) -> None:
    """Every fault is found and named; a sound index has none."""
    index_dir = tmp_path / "index"
    manifest = build_index(index_dir, make_passages(100), encode, OPTIONS)
    path = index_dir / manifest.shards[1].segments[0].files.passages.path
    content = bytearray(path.read_bytes())
    if kind == "bit":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[:-1])
    elif kind == "gone":
        path.unlink()
    else:
        path = index_dir / "data" / "notes.txt"
        path.write_text("x")
    (fault,) = verify_index(index_dir).faults
    assert fault.startswith(f"{path}: ")


def test_verify_wants_an_index(tmp_path) -> None:
    """No index at all is an error, not a report."""
    with pytest.raises(ShoalError, match="holds no index"):
        verify_index(tmp_path)
