"""Versions are told, gone back to and pruned; the live one is never lost."""

import fcntl
from pathlib import Path

import pytest
from fakes.index_folder import commit, store
from fakes.killed_steps import killed_at

from shoal.errors import ConfigError, IndexFormatError, LockedError
from shoal.formats.history import prune_versions, roll_back, summarize_versions
from shoal.formats.versions import list_versions, load_manifest, read_current


@pytest.fixture
def index_dir(tmp_path) -> Path:
    """Three versions."""
    for version in (1, 2, 3):
        commit(tmp_path, version)
    return tmp_path


def files_of(index_dir: Path) -> set[str]:
    return {
        path.relative_to(index_dir).as_posix()
        for path in (index_dir / "data").rglob("*")
        if path.is_file()
    }


def test_versions_are_told_with_what_is_theirs_alone(index_dir):
    """Shared files count in every version's bytes and in nobody's own."""
    found = summarize_versions(index_dir)
    assert [(v.version, v.is_live) for v in found] == [(1, False), (2, False), (3, True)]
    assert [(v.n_bytes, v.n_own_bytes, v.n_live) for v in found] == [
        (10, 4, 1), (10, 4, 2), (10, 4, 3),
    ]  # fmt: skip
    (index_dir / "versions" / "000002" / "manifest.json").write_text("{}")
    assert "000002" in summarize_versions(index_dir)[1].fault


def test_a_rollback_is_a_new_version_of_old_files(index_dir):
    """Numbers are never used twice, and ordinals never fall back."""
    manifest = roll_back(index_dir)
    assert load_manifest(index_dir) == manifest
    assert (manifest.version, manifest.n_live, manifest.next_ordinal) == (4, 2, 30)
    assert manifest.shards == load_manifest(index_dir, 2).shards
    assert roll_back(index_dir, 1).shards == load_manifest(index_dir, 1).shards
    assert read_current(index_dir).version == 5
    assert list_versions(index_dir) == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("version", [3, 4, 9])
def test_a_rollback_to_no_earlier_version_is_refused(index_dir, version):
    """The live one, or one that never was: told which there are; nothing changes."""
    with pytest.raises(ConfigError, match="earlier versions: 1, 2"):
        roll_back(index_dir, version)
    assert list_versions(index_dir) == (1, 2, 3)


def test_a_rollback_to_an_altered_version_is_refused(index_dir):
    """Its files are checked before it becomes the live one."""
    altered = index_dir / load_manifest(index_dir, 1).shards[0].segments[0].files.vectors.path
    altered.write_bytes(b"v9")
    with pytest.raises(IndexFormatError, match=r"vectors\.faiss"):
        roll_back(index_dir, 1)
    assert read_current(index_dir).version == 3


@pytest.mark.parametrize(("keep", "kept"), [(1, (3,)), (2, (2, 3)), (9, (1, 2, 3))])
def test_pruning_keeps_the_newest_and_every_file_they_list(index_dir, keep, kept):
    """What stays is whole; what nobody lists any more is gone."""
    pruned = prune_versions(index_dir, keep=keep)
    assert pruned.kept == list_versions(index_dir) == kept
    listed = {e.path for version in kept for e in load_manifest(index_dir, version).entries()}
    assert files_of(index_dir) == listed
    assert pruned.n_bytes == 4 * (3 - len(kept))
    assert load_manifest(index_dir).version == 3


def test_pruning_keeps_what_is_served(index_dir):
    """A cluster's restarted shard opens its version again."""
    assert prune_versions(index_dir, keep=1, pinned={1, 7}).kept == (1, 3)


def test_pruning_takes_what_never_was_live_and_what_a_killed_build_left(index_dir):
    """A build killed between its version's folder and CURRENT leaves nothing that anybody needs."""
    line = (index_dir / "CURRENT").read_bytes()
    commit(index_dir, 4)
    (index_dir / "CURRENT").write_bytes(line)
    store(index_dir, "vectors.faiss", b"nobody's")
    (index_dir / "versions" / ".000001.partial").mkdir()
    assert prune_versions(index_dir, keep=3).removed == (4,)
    assert len(files_of(index_dir)) == 7
    assert not list((index_dir / "versions").glob(".*"))


def test_pruning_stops_where_a_version_that_stays_cannot_be_read(index_dir):
    """Its manifest may list any file: none is removed."""
    (index_dir / "versions" / "000002" / "manifest.json").write_text("{}")
    before = files_of(index_dir)
    with pytest.raises(IndexFormatError, match="000002"):
        prune_versions(index_dir, keep=2)
    assert files_of(index_dir) == before
    assert prune_versions(index_dir, keep=1).removed == (1, 2)


def test_a_builder_at_work_stops_both(index_dir):
    """Whoever holds the lock may be about to list a file that nobody lists yet."""
    with (index_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            prune_versions(index_dir, keep=1)
        with pytest.raises(LockedError):
            roll_back(index_dir)
    assert list_versions(index_dir) == (1, 2, 3)


def test_no_index_is_told_and_nothing_is_made(tmp_path):
    """Not even a lock file."""
    for work in (lambda: prune_versions(tmp_path, keep=1), lambda: roll_back(tmp_path)):
        with pytest.raises(IndexFormatError, match="no index"):
            work()
    assert not list(tmp_path.iterdir())


_KILLED = """
import sys
from fakes.killed_steps import run_all
from shoal.formats import history
work = {"prune": lambda d: history.prune_versions(d, keep=1), "rollback": history.roll_back}
run_all(work[sys.argv[1]])
"""


@pytest.mark.parametrize("what", ["prune", "rollback"])
def test_killed_anywhere_the_live_version_is_whole(tmp_path, what):
    """SIGKILL before each change of the file system in turn: the old state or the new, whole."""
    runs = [(tmp_path / str(n_steps), n_steps) for n_steps in range(0, 60, 3)]
    for index_dir, _ in runs:
        for version in (1, 2, 3):
            commit(index_dir, version)
    for (index_dir, _), ended in zip(runs, killed_at(_KILLED, runs, what), strict=True):
        live = load_manifest(index_dir)
        assert live.version == 3 or (what == "rollback" and live.version == 4)
        assert all((index_dir / entry.path).exists() for entry in live.entries())
        prune_versions(index_dir, keep=1)
        assert files_of(index_dir) == {entry.path for entry in load_manifest(index_dir).entries()}
        if ended.code == 0:
            return
    pytest.fail("it never came to its end")
