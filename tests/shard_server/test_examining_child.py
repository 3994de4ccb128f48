"""The child that opens files first: what it imports and may use, and whose fault its end is."""

import subprocess
import sys

from shard_server.examination import examine_shard


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
