"""The child that opens files first: what it imports and may use, and whose fault its end is."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shard_server import examination, examine
from shard_server.examination import examine_shard, examined_dir
from shoal.errors import UnavailableError


def test_the_child_imports_nothing_from_where_it_is_started(tmp_path, write_index, monkeypatch):
    """Servers are started in folders that others write to."""
    manifest = write_index(tmp_path / "index", "Flat", n_rows=50)
    canary = tmp_path / "canary"
    for module in ("faiss", "resource", "shard_server", "sitecustomize"):
        (tmp_path / f"{module}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    examine_shard(tmp_path / "index", manifest, 0, remembered=None)
    assert not canary.exists()
    subprocess.run([sys.executable, "-m", "resource"], check=True)
    assert canary.exists(), "the canary itself works"


def test_a_killed_child_is_no_fault_of_the_files(tmp_path, write_index, monkeypatch):
    """The kernel kills where memory is short: the files may be as sound as any."""
    manifest = write_index(tmp_path, "Flat", n_rows=50)
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, b"opening /x/ids.arrow\n", b"")
    monkeypatch.setattr(examination, "run_child", lambda *_, **__: killed)
    with pytest.raises(UnavailableError, match="was killed"):
        examine_shard(tmp_path, manifest, 0, remembered=tmp_path / "marks")
    assert not (tmp_path / "marks").exists()


@pytest.mark.parametrize("inherited", [resource.RLIM_INFINITY, 4])
def test_too_much_time_ends_in_its_own_signal(monkeypatch, inherited):
    """The soft limit is met before the hard one, whose SIGKILL says nothing."""
    given = {}
    monkeypatch.setattr(examine.resource, "getrlimit", lambda _: (inherited, inherited))
    monkeypatch.setattr(examine.resource, "setrlimit", given.__setitem__)
    examine.allow(1 << 30, 60)
    soft, hard = given[resource.RLIMIT_CPU]
    assert 0 < soft < hard
    assert inherited in (resource.RLIM_INFINITY, hard)


def test_a_home_that_is_missing_or_unreadable_has_no_marks(tmp_path, write_index, monkeypatch):
    """Service accounts have neither; their shards are examined at each start, and served."""
    manifest = write_index(tmp_path, "Flat", n_rows=50)
    tried = []
    monkeypatch.setattr(examination, "_try_in_child", lambda *_: tried.append(1))
    unreadable = tmp_path / ("x" * 300)  # as EACCES, but for root too
    examine_shard(tmp_path, manifest, 0, remembered=unreadable)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-at-all").expanduser())
    assert examined_dir() is None
    examine_shard(tmp_path, manifest, 0, remembered=examined_dir())
    assert tried == [1, 1]
