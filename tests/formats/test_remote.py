"""Push and pull: whatever fails, CURRENT never names what is not there; a second run ends it."""

import contextlib
import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.faulty_filesystem import FaultyMemory
from fakes.index_folder import commit
from fsspec.implementations.memory import MemoryFileSystem

from shoal.errors import ConfigError, IndexFormatError, LockedError, StorageError, UnavailableError
from shoal.formats.files import builder_lock
from shoal.formats.history import prune_versions, roll_back
from shoal.formats.remote_pull import pull_index
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import Remote, open_remote
from shoal.formats.remote_transfer import Transfer
from shoal.formats.versions import check_file, load_manifest, read_current

_NUMBERS = itertools.count()
ROOT = Path(__file__).resolve().parents[2]


def quiet(stage: str, done: int, total: int | None) -> None:
    """No progress."""


@pytest.fixture
def index_dir(tmp_path) -> Path:
    """One version."""
    folder = tmp_path / "index"
    folder.mkdir()
    commit(folder, 1)
    return folder


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    if request.param == "memory":
        return f"memory://remote-{next(_NUMBERS)}/indexes/tiny"
    return f"file://{tmp_path}/remote/tiny"


def push(index_dir: Path, url: str, **options: bool) -> Transfer:
    return push_index(index_dir, open_remote(url), quiet, **options)


def pull(url: str, index_dir: Path) -> Transfer:
    return pull_index(open_remote(url), index_dir, quiet)


def sound_version(index_dir: Path) -> int:
    """The live version, once its manifest and every file that it lists hold."""
    manifest = load_manifest(index_dir)
    for entry in manifest.entries():
        check_file(index_dir, entry)
    return manifest.version


def sound_version_there(root: str, scratch: Path) -> int | None:
    """`sound_version` of a remote, told by a plain copy of it."""
    filesystem = MemoryFileSystem()
    for path in filesystem.find(root):
        copy = scratch / path.removeprefix(f"{root}/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(filesystem.cat_file(path))
    return sound_version(scratch) if (scratch / "CURRENT").exists() else None


def refuse() -> None:
    raise OSError("the line is cut")


def test_what_is_pushed_can_be_pulled(index_dir, url, tmp_path):
    """The copy's CURRENT, manifest and files are the original's, byte for byte."""
    assert push(index_dir, url).n_files_copied == 3
    there = pull(url, tmp_path / "copy")
    assert (there.version, there.n_files_copied, there.turned) == (1, 3, True)
    names = [p.relative_to(index_dir) for p in index_dir.rglob("*") if p.is_file()]
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (index_dir / name).read_bytes()
    assert sound_version(tmp_path / "copy") == 1
    assert not (tmp_path / "copy" / ".staging").exists()


def test_only_what_lacks_is_copied(index_dir, url, tmp_path):
    """Versions share files, and the second push and pull copy the new ones alone."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    commit(index_dir, 2)
    done = push(index_dir, url)
    assert (done.n_files_copied, done.n_files_kept, done.turned) == (2, 1, True)
    assert pull(url, tmp_path / "copy").n_files_copied == 2
    assert sound_version(tmp_path / "copy") == 2
    for again in (push(index_dir, url), pull(url, tmp_path / "copy")):
        assert (again.n_files_copied, again.n_bytes_copied, again.turned) == (0, 0, False)
    assert roll_back(tmp_path / "copy").version == 3


def test_a_wrong_file_is_copied_again(index_dir, url, tmp_path):
    """What has the wrong bytes does not count as there, on either side."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    remote = open_remote(url)
    entry = load_manifest(index_dir).entries()[0]
    (tmp_path / "copy" / entry.path).write_bytes(b"x" * entry.n_bytes)
    remote.write(entry.path, b"x" * entry.n_bytes)
    with pytest.raises(IndexFormatError, match=r"vectors\.faiss: SHA-256 differs"):
        pull(url, tmp_path / "copy")
    assert push(index_dir, url, check_all=True).n_files_copied == 1
    assert pull(url, tmp_path / "copy").n_files_copied == 1
    assert sound_version(tmp_path / "copy") == 1


def test_a_file_that_no_version_vouches_for_is_read_back(index_dir, url):
    """An interrupted push may leave anything of the right size."""
    entry = load_manifest(index_dir).entries()[0]
    open_remote(url).write(entry.path, b"x" * entry.n_bytes)
    assert push(index_dir, url).n_files_copied == 3


def test_an_altered_local_file_is_never_pushed(index_dir, url):
    """The remote stays without an index, and the wrong file is taken away again."""
    entry = load_manifest(index_dir).entries()[0]
    (index_dir / entry.path).write_bytes(b"x" * entry.n_bytes)
    with pytest.raises(IndexFormatError, match="SHA-256 differs"):
        push(index_dir, url)
    assert open_remote(url).data_sizes() == {}
    (index_dir / entry.path).unlink()
    with pytest.raises(IndexFormatError, match="missing"):
        push(index_dir, url)
    assert open_remote(url).read_current() is None


def test_another_index_is_not_put_aside_unasked(index_dir, url, tmp_path):
    """--force alone does it, also where both are version 1."""
    other = tmp_path / "other"
    commit(other, 1, name="other")
    push(other, url)
    with pytest.raises(ConfigError, match="holds index 'other', not 'tiny'"):
        push(index_dir, url)
    assert open_remote(url).read_current() == read_current(other)
    push(index_dir, url, force=True)
    pull(url, tmp_path / "copy")
    assert load_manifest(tmp_path / "copy").name == "tiny"


def test_a_version_outside_our_history_is_not_put_aside_unasked(index_dir, url, tmp_path):
    """Somebody else's next version of the same index would be lost."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    commit(tmp_path / "copy", 2)
    push(tmp_path / "copy", url)
    with pytest.raises(ConfigError, match="version 2 is not in this index's history"):
        push(index_dir, url)
    pull(url, index_dir)
    assert sound_version(index_dir) == 2
    commit(index_dir, 3)
    prune_versions(index_dir, keep=1)
    with pytest.raises(ConfigError, match="history"):
        push(index_dir, url)
    push(index_dir, url, force=True)
    assert open_remote(url).read_current() == read_current(index_dir)


def test_a_pull_never_loses_what_is_here(index_dir, url, tmp_path):
    """Another index, a newer version, a version of its own, or no index at all: refused."""
    push(index_dir, url)
    commit(tmp_path / "other", 1, name="other")
    with pytest.raises(ConfigError, match="holds index 'other'"):
        pull(url, tmp_path / "other")
    commit(index_dir, 2)
    with pytest.raises(ConfigError, match="ahead"):
        pull(url, index_dir)
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="no index folder"):
        pull(url, tmp_path / "stranger")


def test_a_diverged_version_is_refused(index_dir, url, tmp_path):
    """One number never means two contents."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    commit(tmp_path / "copy", 2)
    commit(index_dir, 2, n_lists=7)
    push(index_dir, url)
    with pytest.raises(ConfigError, match="is another than the URL's version 2"):
        pull(url, tmp_path / "copy")
    commit(index_dir, 3)
    push(index_dir, url)
    with pytest.raises(ConfigError, match="is another than the URL's version 2"):
        pull(url, tmp_path / "copy")


def test_a_busy_folder_is_not_pulled_into(index_dir, url, tmp_path):
    """The builder's lock holds off a pull."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    with builder_lock(tmp_path / "copy"), pytest.raises(LockedError):
        pull(url, tmp_path / "copy")


def test_a_push_meanwhile_is_noticed(index_dir, url, tmp_path):
    """Of two pushers at once, the later one stops before it turns CURRENT."""
    push(index_dir, url)
    pull(url, tmp_path / "copy")
    commit(index_dir, 2)
    commit(tmp_path / "copy", 2)

    def other_first(stage: str, done: int, total: int | None) -> None:
        push(tmp_path / "copy", url)

    with pytest.raises(LockedError, match="somebody else"):
        push_index(index_dir, open_remote(url), other_first)


@pytest.mark.parametrize("line", [b"", b"000001", b"no index", b"000001 " + b"0" * 64 + b"\n"])
def test_a_broken_remote_is_one_clear_error(index_dir, url, tmp_path, line):
    """No folder is made for it, and a push needs --force."""
    push(index_dir, url)
    open_remote(url).write("CURRENT", line)
    with pytest.raises(IndexFormatError, match=r"CURRENT|SHA-256 differs"):
        pull(url, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(IndexFormatError):
        push(index_dir, url)
    push(index_dir, url, force=True)
    pull(url, tmp_path / "copy")


def test_an_empty_or_impossible_url_is_one_clear_error(tmp_path, url):
    """Before anything is made here."""
    with pytest.raises(IndexFormatError, match="holds no index"):
        pull(url, tmp_path / "copy")
    with pytest.raises(ConfigError, match="is no URL"):
        open_remote("s3:/bucket")
    with pytest.raises(ConfigError, match="nosuch"):
        open_remote("nosuch://bucket")
    assert not (tmp_path / "copy").exists()


def failing_at(n: int | None, fail: Callable[[], None], root: str) -> tuple[FaultyMemory, Remote]:
    filesystem = FaultyMemory()
    filesystem.fails_at, filesystem.fail = n, fail
    return filesystem, Remote("memory://faulty", filesystem, root)


@pytest.mark.parametrize("forced", [False, True])
def test_a_push_that_fails_anywhere_leaves_the_old_version_or_the_new(index_dir, tmp_path, forced):
    """At each operation in turn; the next push ends it. Forced over an index of the same version
    number there may be none live for a moment, but never a wrong one.
    """
    if forced:
        commit(tmp_path / "old", 2, name="other")
    commit(index_dir, 2)
    seen, n = set(), 0
    while True:
        n += 1
        root = f"/faulty-{next(_NUMBERS)}"
        if forced:
            push_index(tmp_path / "old", failing_at(None, refuse, root)[1], quiet)
        else:
            first = tmp_path / f"first-{n}"
            commit(first, 1)
            push_index(first, failing_at(None, refuse, root)[1], quiet)
        filesystem, remote = failing_at(n, refuse, root)
        with contextlib.suppress(UnavailableError):
            push_index(index_dir, remote, quiet, force=forced)
        seen.add(sound_version_there(root, tmp_path / f"scratch-{n}"))
        push_index(index_dir, failing_at(None, refuse, root)[1], quiet, force=forced)
        assert sound_version_there(root, tmp_path / f"again-{n}") == 2
        if filesystem.n_operations < n:
            break
    assert n > 20
    assert seen == ({None, 2} if forced else {1, 2})


def test_a_pull_that_fails_anywhere_leaves_the_old_version(index_dir, tmp_path):
    """At each of the remote's operations, and at each fsync here."""
    root = f"/faulty-{next(_NUMBERS)}"
    push_index(index_dir, failing_at(None, refuse, root)[1], quiet)
    commit(index_dir, 2)
    push_index(index_dir, failing_at(None, refuse, root)[1], quiet)
    n = 0
    while True:
        n += 1
        copy = tmp_path / f"copy-{n}"
        commit(copy, 1)
        filesystem, remote = failing_at(n, refuse, root)
        with contextlib.suppress(UnavailableError):
            pull_index(remote, copy, quiet)
        assert sound_version(copy) == (1 if filesystem.n_operations == n else 2)
        pull_index(failing_at(None, refuse, root)[1], copy, quiet)
        assert sound_version(copy) == 2
        if filesystem.n_operations < n:
            break
    assert n > 5


def test_a_disk_that_fails_at_any_fsync_keeps_the_old_version_or_the_new(
    index_dir, tmp_path, monkeypatch
):
    """A local disk may be full at any point of a pull."""
    url = f"file://{tmp_path}/remote"
    commit(index_dir, 2)
    push(index_dir, url)
    real, left = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    seen = set()
    for n in range(1, 40):
        copy = tmp_path / f"copy-{n}"
        left[0] = 0
        commit(copy, 1)
        left[0] = n
        with contextlib.suppress(StorageError):
            pull(url, copy)
        seen.add(sound_version(copy))
        left[0] = 0
        pull(url, copy)
        assert sound_version(copy) == 2
    assert seen == {1, 2}


# the forks are of a process without threads, of which this one has many by now: whatever lock one
# of them held would be held in the child for ever
_KILLED = """
import os, sys
from pathlib import Path
from fakes.faulty_filesystem import FaultyLocal
from shoal.formats.remote_pull import pull_index
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import Remote

def work(n, side, index_dir, there, here):
    filesystem = FaultyLocal()
    filesystem.fails_at, filesystem.fail = int(n), lambda: os._exit(9)
    remote = Remote(f"file://{there}", filesystem, there)
    if side == "push":
        push_index(Path(index_dir), remote, quiet)
    else:
        pull_index(remote, Path(here), quiet)

def quiet(*_):
    pass

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*line.split())
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def run_killed() -> Iterator[Callable[..., int]]:
    """Pushes or pulls in a process that is gone at the n-th operation; its exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    ) as forking:  # fmt: skip

        def run(*told: object) -> int:
            forking.stdin.write(" ".join(map(str, told)) + "\n")
            forking.stdin.flush()
            return int(forking.stdout.readline())

        yield run


@pytest.mark.parametrize("side", ["push", "pull"])
def test_a_killed_run_leaves_the_old_version_or_the_new(index_dir, tmp_path, side, run_killed):
    """The process is gone at the n-th operation, with no clean-up; the next run ends it."""
    commit(index_dir, 2)
    n = 0
    while True:
        n += 1
        there, here = tmp_path / f"there-{n}", tmp_path / f"here-{n}"
        commit(there, 1)
        commit(here, 1)
        url = f"file://{there}"
        if side == "pull":
            push(index_dir, url)
        code = run_killed(n, side, index_dir, there, here)
        assert code in {0, 9}
        target = there if side == "push" else here
        assert sound_version(target) in {1, 2}
        if side == "push":
            push(index_dir, url)
        else:
            pull(url, here)
        assert sound_version(target) == 2
        if code == 0:
            break
    assert n > 5


def test_names_are_hashes(index_dir, url):
    """What the remote holds is content-addressed as the folder is."""
    push(index_dir, url)
    remote = open_remote(url)
    for name in remote.data_sizes():
        content = b"".join(remote.chunks(name))
        assert name.split("/")[1] == hashlib.sha256(content).hexdigest()
