"""The GPU benchmark's logic, run on the CPU."""

import sys

import numpy as np
import pytest

from bench import gpu, synthetic
from bench.bandwidth import of_card, scanned_gb_s
from bench.gpu import rescoring_with
from bench.synthetic import clustered_queries, write_clustered


def test_the_command_measures_the_cpu_alone(tmp_path, monkeypatch, capsys):
    """A machine without a GPU runs the whole of it, so that it is known to work on one that has."""
    flags = [
        "--device", "cpu", "--rows", "1500", "--dim", "32", "--recipe", "IVF8,PQ16",
        "--queries", "40", "--seconds", "0", "--folder", str(tmp_path),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bench.gpu", *flags])
    gpu.main()
    table = capsys.readouterr().out.partition("1,500 vectors of 32 dimensions, IVF8,PQ16")[2]
    for rescored in ("no", "on the host", "by torch"):
        assert f"| cpu | {rescored} |" in table
    assert "GB/s (one core's copy, measured)" in table


def test_scanned_bytes_are_codes_of_probed_lists():
    """A tenth of the lists of a million 96-byte codes, a thousand times a second: 9.6 GB/s."""
    scanned = scanned_gb_s(
        n_probe=10, n_lists=100, n_rows=1_000_000, code_bytes=96, queries_per_s=1_000
    )
    assert scanned == pytest.approx(9.6)


@pytest.mark.parametrize(("name", "gb_s"), [
    ("NVIDIA H100 80GB HBM3", 3350), ("NVIDIA H100 PCIe", 2000), ("NVIDIA L40S", 864),
    ("NVIDIA L4", 300), ("Tesla T4", 320), ("GeForce 256", 0),
])  # fmt: skip
def test_a_card_is_known_by_its_name(name, gb_s):
    """Names contain each other: an L40S is no L4; and a card that is not known gets no figure."""
    assert of_card(name).gb_s == gb_s


def test_rescoring_on_a_device_gives_the_exact_order(rng):
    """What torch ranks stands beside what the host ranks only where both find the same."""
    torch = pytest.importorskip("torch")
    vectors = rng.standard_normal((300, 16)).astype(np.float16)
    queries = rng.standard_normal((5, 16)).astype(np.float16).astype(np.float32)
    rows = np.array([rng.permutation(300)[:40] for _ in queries])
    _, found = rescoring_with(torch, vectors, "cpu")(queries, rows)
    for query, candidates, best in zip(queries, rows, found, strict=True):
        exact = vectors[candidates].astype(np.float32) @ query
        assert set(best[:5]) <= set(candidates[np.argsort(-exact)[:12]])


def test_queries_lie_where_the_rows_do(tmp_path):
    """Queries of other clusters would find nothing near, and recall would mean nothing."""
    write_clustered(tmp_path / "rows.npy", n_rows=1_000, dim=64)
    rows = np.load(tmp_path / "rows.npy").astype(np.float32)
    queries = clustered_queries(n_queries=20, n_rows=1_000, dim=64)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)
    strangers = clustered_queries(n_queries=20, n_rows=1_000, dim=64, seed=9)
    assert (queries @ rows.T).max(axis=1).mean() > (strangers @ rows.T).max(axis=1).mean() + 0.1


def test_vectors_are_named_only_when_they_are_whole(tmp_path, monkeypatch):
    """A benchmark that was cut short would go on with rows of zeros; and rows are made once."""
    path = tmp_path / "made" / "rows.npy"

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_around", cut)
        with pytest.raises(KeyboardInterrupt):
            write_clustered(path, n_rows=100, dim=8)
    assert not path.exists()
    write_clustered(path, n_rows=100, dim=8, dtype=np.float32)
    rows = np.load(path)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    monkeypatch.setattr(synthetic, "_around", cut)
    assert write_clustered(path, n_rows=100, dim=8) == path
