"""A build on real Ray is the local one, and goes on from where either was killed."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes.counted_build import CountedEncode
from fakes.ray_build import CHUNK, N_PASSAGES, OPTIONS, corpus
from fakes.ray_head import RayHead
from faults.processes import ROOT, poll

from deploy.ray.building.shared_folder import leave_mark
from shard_server.building import build_index, read_corpus, verify_index
from shard_server.building.chunk_file import plan_chunks
from shard_server.building.progress import silent
from shard_server.building.stage import stage_corpus
from shard_server.building.vectors import read_stored
from shoal.errors import StorageError, UnavailableError
from shoal.formats.ids import IdFile
from shoal.formats.manifest import Manifest
from shoal.formats.passages import TEXT_COLUMNS, PassageFile
from shoal.formats.versions import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

N_REAL = 1_100
"""Passages of real text: two chunks, one for each encoder."""
PROGRAM = ROOT / "tests" / "fakes" / "ray_build.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Manifest:
    """The made-up corpus, built here."""
    folder = tmp_path_factory.mktemp("whole")
    return build_index(folder / "index", corpus(), CountedEncode(folder / "log"), OPTIONS)


@pytest.fixture
def driver(ray_head):
    """Starts the build's driver as a process; kills what is left of it."""
    started: list[subprocess.Popen[str]] = []

    def start(index_dir: Path, log: Path, *more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(index_dir), str(log), ray_head.address, *more],
            env={**ray_head.environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def n_chunks_done(index_dir: Path) -> int:
    """Chunks whose sums stand: what a build that goes on need not encode."""
    sums = b"".join(path.read_bytes() for path in index_dir.glob(".staging/encode-*/sums"))
    return int(np.frombuffer(sums, dtype="<u8").astype(bool).sum())


def encoded(log: Path) -> Counter[int]:
    return Counter(int(line) for line in log.read_text().splitlines())


def build(head: RayHead, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli.main", "index", "build", "--json", *arguments]
    return subprocess.run(
        command, env=head.environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def shard_contents(index_dir: Path) -> list[tuple]:
    """Each shard's ordinals, texts, id hashes, and vectors."""
    manifest = load_manifest(index_dir)
    found = []
    for shard in manifest.shards:
        (segment,) = shard.segments
        passages = PassageFile.open(index_dir / segment.files.passages.path)
        rows = np.arange(segment.n_rows)
        texts = {name: column.data for name, column in passages.take(rows, TEXT_COLUMNS).items()}
        ids = IdFile.open(index_dir / segment.files.ids.path)
        vectors = read_stored(index_dir / segment.files.vectors.path, manifest.dim)
        found.append((passages.ordinals.tolist(), texts, ids.n_rows, vectors.astype(np.float32)))
    return found


def test_the_index_is_the_local_one(tmp_path, ray_head):
    """Real text and the packaged encoder, by the command: the same passages at the same ordinals,
    vectors within 1e-3, and nothing of Ray's own words among ours.
    """
    passages = [p for p, _ in zip(read_corpus("python-docs"), range(N_REAL), strict=False)]
    lines = [
        json.dumps({"_id": p.id, "title": p.title, "text": " ".join(p.text.split()[:6])})
        for p in passages
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    source = ["--corpus", str(tmp_path / "corpus.jsonl"), "--shards", "2", "--recipe", "IVF16,SQ8"]
    local = build(ray_head, *source, "--name", "x", "--index", str(tmp_path / "local"))
    assert local.returncode == 0, local.stderr
    on_ray = build(
        ray_head, *source, "--name", "x", "--index", str(tmp_path / "on_ray"),
        "--on", "ray", "--encoders", "2",
    )  # fmt: skip
    assert on_ray.returncode == 0, on_ray.stderr
    assert json.loads(on_ray.stdout)["n_passages"] == N_REAL
    said = on_ray.stderr.splitlines()
    words = ("model ", "read: ", "Ray: 2 encoders with ", "encode: ", "train: ", "fill: ")
    assert [line for line in said if not line.startswith(words)] == []
    assert "Ray: 2 encoders with 8 CPUs each" in said
    pairs = zip(
        shard_contents(tmp_path / "local"), shard_contents(tmp_path / "on_ray"), strict=True
    )
    for ours, theirs in pairs:
        assert ours[:3] == theirs[:3]
        np.testing.assert_allclose(ours[3], theirs[3], atol=1e-3)
    assert verify_index(tmp_path / "on_ray").faults == ()
    assert not (tmp_path / "on_ray" / ".staging").exists()


def test_an_actor_answers_in_float32_where_that_is_kept(tmp_path):
    """Rounding comes after keeping; in place of Ray, the actor is called here."""
    from deploy.ray.building.encoding import ChunkEncoder, EncodeWork

    staged = stage_corpus(corpus(), tmp_path / "corpus.arrow", silent)
    chunks = plan_chunks((batch.num_rows for batch in staged.batches()), CHUNK)[:2]
    texts = [passage.text for passage in corpus()][: 2 * CHUNK]
    wanted = CountedEncode(tmp_path / "log")([""] * len(texts), texts)
    for keep_float32, dtype in ((True, "<f4"), (False, "<f2")):
        work = EncodeWork(
            corpus=staged.path,
            mark=leave_mark(tmp_path),
            load=partial(CountedEncode, tmp_path / "log"),
            contract=CountedEncode.contract,
            dim=CountedEncode.dim,
            keep_float32=keep_float32,
        )
        answered = ChunkEncoder(work)(pa.Table.from_pylist([asdict(chunk) for chunk in chunks]))
        content = b"".join(row["rows"] for row in answered.to_pylist())
        assert content == wanted.astype(dtype).tobytes()
        assert work.dtype == dtype


def test_a_killed_build_goes_on_on_ray_or_here(tmp_path, driver, whole):
    """SIGKILL of the driver while chunks are under way: either way on encodes only those that were
    not done, and the index is the undisturbed local one, hash for hash.
    """
    index_dir, log = tmp_path / "index", tmp_path / "log"
    process = driver(index_dir, log)
    poll(lambda: n_chunks_done(index_dir) >= 5, within_s=90.0, what="five chunks")
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    n_done = n_chunks_done(index_dir)
    assert 5 <= n_done < N_PASSAGES // CHUNK - 2
    shutil.copytree(index_dir, tmp_path / "here")

    again = driver(index_dir, tmp_path / "log-again")
    said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    here = build_index(tmp_path / "here", corpus(), CountedEncode(tmp_path / "log-here"), OPTIONS)
    for name in ("log-again", "log-here"):
        times = encoded(tmp_path / name)
        assert len(times) == N_PASSAGES - n_done * CHUNK
        assert set(times.values()) == {1}
        # an encoder begins a chunk while the one before is on its way: two a kill, each
        both = encoded(log).keys() & times.keys()
        assert len({number // CHUNK for number in both}) <= 2 * 2
        assert len(encoded(log).keys() | times.keys()) == N_PASSAGES
    for manifest in (load_manifest(index_dir), here):
        assert (manifest.trained, manifest.shards) == (whole.trained, whole.shards)
    assert verify_index(index_dir).faults == ()


def test_an_encoder_s_failure_is_told_with_its_node(tmp_path, driver):
    """It happened on some machine of many: one line says on which, and what."""
    broken = driver(tmp_path / "index", tmp_path / "log", "broken")
    _, said = broken.communicate(timeout=120)
    assert broken.returncode == 1
    assert said.splitlines()[-1].startswith(
        "shoal.errors.ConfigError: on node 127.0.0.2: the encoder answered with NaN"
    ), said


def test_shards_of_given_vectors_are_filled_on_ray(tmp_path, ray_head, rng):
    """Nothing is encoded then; a shard without a passage has no files, here as there."""
    np.save(tmp_path / "x.npy", rng.standard_normal((3, 16), dtype=np.float32))
    manifests = []
    for name, more in (("local", ()), ("on_ray", ("--on", "ray"))):
        done = build(
            ray_head, "--vectors", str(tmp_path / "x.npy"), "--shards", "4", "--name", "x",
            "--recipe", "SQ8", "--index", str(tmp_path / name), *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        manifests.append(load_manifest(tmp_path / name))
    assert (manifests[0].trained, manifests[0].shards) == (
        manifests[1].trained,
        manifests[1].shards,
    )


_HOLDS_A_CPU = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
class Replica:
    def serves(self): return "held"
replica = Replica.remote()
print(ray.get(replica.serves.remote()), flush=True)
sys.stdin.read()
"""


def test_a_build_goes_on_beside_what_serves(tmp_path, ray_head, rng):
    """One shard's task would get all of a node's CPUs, of which a replica holds one: it waited for
    ever, and said nothing.
    """
    np.save(tmp_path / "x.npy", rng.standard_normal((3, 16), dtype=np.float32))
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_A_CPU, ray_head.address],
        env=ray_head.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as serving:  # fmt: skip
        try:
            assert serving.stdout.readline() == "held\n"
            done = build(
                ray_head, "--vectors", str(tmp_path / "x.npy"), "--shards", "1", "--name", "x",
                "--recipe", "SQ8", "--index", str(tmp_path / "index"), "--on", "ray",
            )  # fmt: skip
        finally:
            serving.kill()
    assert done.returncode == 0, done.stderr
    assert verify_index(tmp_path / "index").faults == ()


def test_a_cluster_that_is_not_there_is_told_in_one_line(tmp_path, ray_head):
    """With what to do about it, and before anything is loaded or read."""
    done = build(
        ray_head, "--corpus", "/nonexistent", "--index", str(tmp_path / "index"),
        "--on", "ray", "--ray-address", "127.0.0.1:1",
    )  # fmt: skip
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert line.startswith("shoal: error: no Ray cluster is to be reached (127.0.0.1:1")
    assert "ray start --head" in line
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (StorageError("the disk is full"), StorageError),
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (ConnectionResetError("the GCS is gone"), UnavailableError),
        (ValueError("a bug in an actor"), UnavailableError),
    ],
)
def test_a_failure_is_what_caused_it(cause, told):
    """A full disk sweeps a build's work and a lost cluster keeps it: one is not the other."""
    from ray.exceptions import RayError, RayTaskError

    from deploy.ray.building.failures import as_our_own

    wrapped = RayTaskError("f", "Traceback ...", cause).as_instanceof_cause()
    assert isinstance(wrapped, RayError)
    with pytest.raises(Exception) as raised, as_our_own():  # noqa: PT011 -- told below
        raise wrapped
    assert type(raised.value) is told


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "Traceback (most recent call last):\n  x.py:1\nValueError: a bug\nFailed to apply UDF",
            "ValueError: a bug",
        ),
        (
            "The actor died unexpectedly.\n\tclass_name: ChunkEncoder",
            "The actor died unexpectedly.",
        ),
        ("", "RuntimeError"),
    ],
)
def test_a_failure_of_ray_is_told_in_a_line(said, line):
    """Ray's messages are tracebacks with advice behind them."""
    from deploy.ray.building.failures import first_line

    assert first_line(RuntimeError(said)) == line
