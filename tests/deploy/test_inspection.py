"""`shoal index inspect`, as people and programs read it."""

import json

import numpy as np
import pytest

from deploy.cli.main import run
from shard_server.building import BuildOptions, Passage, build_index

DIM = 8


class Skewed:
    """All vectors but a few are near one axis: the lists can't be even."""

    contract = None
    dim = DIM

    def __call__(self, titles, texts):
        numbers = np.array([int(text) for text in texts])
        rng = np.random.default_rng(int(numbers[0]))
        vectors = rng.normal(scale=0.01, size=(len(numbers), DIM)).astype(np.float32)
        vectors[np.arange(len(numbers)), np.where(numbers % 10, 0, numbers % DIM)] += 1
        return vectors


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected") / "index"
    passages = [Passage(id=f"p{i}", title="", text=str(i), where="-") for i in range(900)]
    build_index(
        folder, passages, Skewed(), BuildOptions(name="skewed", n_shards=2, recipe="IVF16,SQ8")
    )
    return folder


def test_people_read_tables(index_dir, capsys):
    """Recipe, counts, balance and sizes of each shard, and no JSON."""
    assert run(["index", "inspect", "--index", str(index_dir)]) == 0
    told = capsys.readouterr().out
    assert "{" not in told
    assert "IVF16,SQ8, inner_product, 8 dimensions" in told
    assert "900 live of 900 rows" in told
    assert "encoder: none" in told
    lines = told.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("shard "))
    assert lines[header].split()[-4:] == ["lists", "empty", "largest", "imbalance"]
    assert run(["index", "inspect", "--index", str(index_dir), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for number, shard in enumerate(report["shards"]):
        cells = lines[header + 1 + number].split()
        balance = shard["lists"]
        assert cells[:4] == [str(number), "1", str(shard["n_live"]), str(shard["n_rows"])]
        assert cells[-4:] == [
            str(balance[name]) for name in ("n_lists", "n_empty", "largest", "imbalance")
        ]
        assert balance["imbalance"] > 1
    assert sum(shard["n_live"] for shard in report["shards"]) == 900


def test_an_index_without_lists_has_no_balance(tiny_index, capsys):
    """A dash, not a made-up figure."""
    assert run(["index", "inspect", "--index", str(tiny_index)]) == 0
    assert capsys.readouterr().out.count("  -  ") >= 2
