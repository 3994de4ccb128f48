"""Files that verify may still be hostile: a child opens them first, with bounded means."""

import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import faiss
import numpy as np
import pytest
from fakes import examine_many
from fakes.examiner import Examiner
from fakes.hostile_files import replace_file
from fakes.known_vectors import Rows

from shard_server import examination
from shard_server.building import BuildOptions, Passage, add_passages, build_index, verify_index
from shard_server.examination import Allowance, allowance, examine_shard
from shard_server.familiar import strange_part
from shard_server.segment import read_segment
from shoal.errors import IndexFormatError, ShoalError, UnavailableError
from shoal.formats.versions import commit_version, load_manifest

ROOT = Path(__file__).resolve().parents[2]
DIM, N_ROWS = 16, 400
VECTORS = np.random.default_rng(5).standard_normal((N_ROWS, DIM), dtype=np.float32)
RECIPES = ["SQ8", "PQ8", "PQ8x4fs", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ8", "IVF4,PQ8x4fs",
           "PCA8,SQ8", "OPQ8,IVF4,PQ8x4fs"]  # fmt: skip


def passages():
    return [
        Passage(id=f"p{i}", title="t", text=str(i), where=f"x:{i}", metadata={"n": i})
        for i in range(N_ROWS)
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of one recipe's index, built once."""
    folders = {}

    def copy(recipe: str, to: Path) -> Path:
        if recipe not in folders:
            folders[recipe] = tmp_path_factory.mktemp("built") / "index"
            options = BuildOptions(name="tiny", recipe=recipe)
            build_index(folders[recipe], passages(), Rows(VECTORS), options)
        return shutil.copytree(folders[recipe], to / "index")

    return copy


@pytest.fixture(scope="module")
def examiner():
    started = Examiner()
    yield started
    started.close()


@pytest.fixture
def quick_children(examiner, monkeypatch):
    """Children that needn't start Python; the others of this file do."""
    monkeypatch.setattr(examination, "run_child", examiner.run)


def bytes_of(index: faiss.Index) -> bytes:
    return faiss.serialize_index(index).tobytes()


def own_file(index_dir: Path, name: str = "index") -> bytes:
    files = load_manifest(index_dir).shards[0].segments[0].files
    return (index_dir / getattr(files, name).path).read_bytes()


def huge_rows(index_dir: Path) -> bytes:
    """2^40 rows: the count in the header, and the length of the codes."""
    content = bytearray(own_file(index_dir))
    struct.pack_into("<q", content, 8, 1 << 40)
    return bytes(content)


def huge_lists(index_dir: Path) -> bytes:
    """2^31 lists."""
    content = bytearray(own_file(index_dir))
    struct.pack_into("<Q", content, content.index(struct.pack("<QQ", 4, 1), 30), 1 << 31)
    return bytes(content)


def deep_nest(index_dir: Path) -> bytes:
    """Transforms in transforms, each without a link: recursion without an end."""
    header = b"IxPT" + struct.pack("<iqqqBi", DIM, N_ROWS, 1 << 20, 1 << 20, 1, 0)
    return (header + struct.pack("<i", 0)) * 300_000 + own_file(index_dir)


def nest(index_dir: Path) -> bytes:
    """Two transforms, one in the other."""
    inner = faiss.deserialize_index(np.frombuffer(own_file(index_dir), dtype=np.uint8))
    for _ in range(2):
        turn = faiss.LinearTransform(DIM, DIM)
        faiss.copy_array_to_vector(np.eye(DIM, dtype=np.float32).ravel(), turn.A)
        turn.is_trained = True
        outer = faiss.IndexPreTransform(turn, inner)
        outer.ntotal = N_ROWS
        kept.append((turn, inner))
        inner = outer
    return bytes_of(inner)


kept: list[object] = []
"""faiss's Python objects die with their names."""


def foreign(kind: str):
    def make(_index_dir: Path) -> bytes:
        if kind == "graph":
            index = faiss.IndexHNSWFlat(DIM, 4, faiss.METRIC_INNER_PRODUCT)
            index.add(VECTORS)
        else:
            flat = faiss.IndexFlatIP(DIM)
            index = faiss.IndexIDMap(flat)
            index.add_with_ids(VECTORS, np.arange(N_ROWS) + (1 << 40))
            kept.append(flat)
        return bytes_of(index)

    make.__name__ = kind
    return make


def other_code_size(index_dir: Path) -> bytes:
    """A codebook of 4 parts where the header's codes have 8."""
    content = bytearray(own_file(index_dir))
    at = content.index(struct.pack("<QQQ", DIM, 8, 8))
    struct.pack_into("<QQQ", content, at, DIM, 4, 8)
    return bytes(content)


@pytest.mark.parametrize(
    ("recipe", "make"),
    [
        ("SQ8", huge_rows),
        ("IVF4,PQ8", huge_rows),
        ("IVF4,SQ8", huge_lists),
        ("SQ8", nest),
        ("SQ8", deep_nest),
        ("SQ8", foreign("graph")),
        ("SQ8", foreign("id map")),
        ("IVF4,PQ8", other_code_size),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.usefixtures("quick_children")
def test_hostile_files_with_true_checksums_are_refused(built, tmp_path, recipe, make):
    """Fault 14: the child refuses or dies, this process lives, and the message names the file."""
    index_dir = built(recipe, tmp_path)
    content = make(index_dir)
    manifest, path = replace_file(index_dir, load_manifest(index_dir), "index", content)
    with pytest.raises(IndexFormatError) as refused:
        examine_shard(index_dir, manifest, 0, remembered=tmp_path / "marks")
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    assert not (tmp_path / "marks").exists()


@pytest.mark.timeout(3_600)  # for --seeds 50
def test_mutations_end_in_the_child(built, tmp_path, seeds):
    """Fault 14: refused, or a crash of the child; and what was found sound survives any search.

    Every recipe's index, and every other kind of file once; 100 of each with `--seeds 50`.
    """
    files = [(recipe, "index") for recipe in RECIPES]
    files += [("SQ8", name) for name in ("vectors", "passages", "ids")]
    named = [f"{built(recipe, tmp_path / f'{recipe}-{name}')}={name}" for recipe, name in files]
    n_mutations = 2 * seeds
    done = subprocess.run(
        [sys.executable, "-W", "ignore", examine_many.__file__, str(n_mutations), "7", *named],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=3_600, check=True,
    )  # fmt: skip
    counts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(counts) == len(files)
    for file, ended in zip(files, counts, strict=True):
        ended.pop("worst_s")
        assert set(ended) <= {"refused", "sound", "killed"}, (file, done.stderr)
        assert sum(ended.values()) == n_mutations
    total = sum(map(Counter, counts), Counter())
    print(dict(total))
    assert total["refused"] > 0.3 * n_mutations * len(files)


class Payload:
    """Unpickled, it makes the canary's file."""

    def __init__(self, canary: Path):
        self._canary = canary

    def __reduce__(self):
        return os.mknod, (str(self._canary),)


def disguised(kind: str, canary: Path) -> bytes:
    """What readers that trust pickle would run: it makes the canary's file."""
    packed = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Payload(canary)))
    elif kind == "npy":
        np.save(packed, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    else:
        pickle.dump(Payload(canary), packed)
    return packed.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "zip", "npy"])
@pytest.mark.parametrize("name", ["index", "vectors", "passages", "ids", "deleted"])
@pytest.mark.usefixtures("quick_children")
def test_nothing_is_ever_unpickled(built, tmp_path, kind, name):
    """Fault 46: true checksums don't make a pickle an index; its canary is never made."""
    index_dir = built("SQ8", tmp_path)
    canary = tmp_path / "canary"
    content = disguised(kind, canary)
    manifest, path = replace_file(index_dir, load_manifest(index_dir), name, content)
    with pytest.raises(IndexFormatError, match=str(path)):
        examine_shard(index_dir, manifest, 0, remembered=None)
    # without the child as well: builder, calibration and verify read files by themselves
    if name != "ids":
        with pytest.raises(IndexFormatError, match=str(path)):
            read_segment(index_dir, manifest, manifest.shards[0].segments[0])
    commit_version(index_dir, manifest.model_copy(update={"version": 2}))
    try:
        faults = verify_index(index_dir).faults
    except ShoalError as error:
        faults = (error.message,)
    assert any(str(path) in fault for fault in faults)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists(), "the canary itself works"


@pytest.mark.parametrize("kind", ["pickle", "zip", "npy"])
def test_nothing_trained_is_unpickled(built, tmp_path, kind):
    """Fault 46: an addition reads the trained quantizer, and refuses what isn't one."""
    index_dir = built("SQ8", tmp_path)
    canary = tmp_path / "canary"
    manifest = load_manifest(index_dir)
    stored, path = replace_file(index_dir, manifest, "index", disguised(kind, canary))
    trained = stored.shards[0].segments[0].files.index
    commit_version(index_dir, manifest.model_copy(update={"version": 2, "trained": trained}))
    new = Passage(id="new", title="", text="1", where="x:1")
    with pytest.raises(ShoalError, match=str(path)):
        add_passages(index_dir, [new], Rows(VECTORS))
    assert not canary.exists()


def test_sound_files_are_tried_once(built, tmp_path, monkeypatch):
    """A mark stands for these bytes and these releases: other bytes are tried again."""
    index_dir = built("IVF4,PQ8x4fs", tmp_path)
    manifest = load_manifest(index_dir)
    marks = tmp_path / "marks"
    examine_shard(index_dir, manifest, 0, remembered=marks)
    assert len(list(marks.iterdir())) == 1
    tried = []
    monkeypatch.setattr(examination, "_try_in_child", lambda *_: tried.append(1))
    examine_shard(index_dir, manifest, 0, remembered=marks)
    assert not tried
    examine_shard(index_dir, manifest, 0, remembered=None)
    assert tried == [1]
    other, _ = replace_file(index_dir, manifest, "index", b"other bytes")
    examine_shard(index_dir, other, 0, remembered=marks)
    assert tried == [1, 1]
    monkeypatch.setattr(examination.faiss, "__version__", "9.9.9")
    examine_shard(index_dir, manifest, 0, remembered=marks)
    assert tried == [1, 1, 1]


def test_a_child_that_wants_too_much_is_ended(built, tmp_path, monkeypatch):
    """Fault 14: memory, processor and waiting have bounds, and the message says which was met."""
    index_dir = built("SQ8", tmp_path)
    manifest = load_manifest(index_dir)
    given = allowance(manifest, 0)
    tight = Allowance(extra_bytes=1 << 10, cpu_s=given.cpu_s, wait_s=given.wait_s)
    monkeypatch.setattr(examination, "allowance", lambda *_: tight)
    with pytest.raises(IndexFormatError, match=str(index_dir)):
        examine_shard(index_dir, manifest, 0, remembered=None)
    late = Allowance(extra_bytes=given.extra_bytes, cpu_s=given.cpu_s, wait_s=0)
    monkeypatch.setattr(examination, "allowance", lambda *_: late)
    with pytest.raises(IndexFormatError, match="not open within 0 s"):
        examine_shard(index_dir, manifest, 0, remembered=None)
    monkeypatch.setattr(examination.sys, "executable", "/nowhere/python")
    with pytest.raises(UnavailableError, match="no process can be started"):
        examine_shard(index_dir, manifest, 0, remembered=None)


@pytest.mark.parametrize(("status", "told"), [
    (-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGABRT, "SIGABRT"), (-signal.SIGXCPU, "processor time"),
    (1, "can't be opened: boom"),
])  # fmt: skip
def test_every_end_of_the_child_is_told(tmp_path, status, told):
    """The last line says which file was being opened."""
    given = Allowance(extra_bytes=1 << 20, cpu_s=5, wait_s=9)
    out = b"opening /x/ids.arrow\nopening /x/index.faiss\n"
    ended = subprocess.CompletedProcess([], status, out, b"Traceback\nboom\n")
    fault = examination._fault(ended, tmp_path, given)
    assert fault.startswith("/x/index.faiss: ")
    assert told in fault


def test_parts_that_no_recipe_makes_are_named():
    """Graphs as quantizers, and codes without a recipe."""
    quantizer = faiss.IndexHNSWFlat(DIM, 4)
    ivf = faiss.IndexIVFFlat(quantizer, DIM, 4)
    assert strange_part(ivf) == "IndexHNSWFlat as quantizer"
    assert strange_part(faiss.IndexFlatL2(DIM)) == "IndexFlatL2"
