"""The recipes' benchmark on a small corpus: its figures are facts about real indexes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.engine_cost import bare_search
from bench.index import BEGIN, END, PAGE, with_block
from bench.recipe_table import cheapest_at
from bench.shard_lists import measure_lists
from bench.stored import built, held_out, opened, spread
from bench.timing import medians_s
from deploy.calibration.choose import Cell
from deploy.calibration.measure import measure
from shard_server.limits import SearchParameters
from shoal.formats.versions import load_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clustered vectors and questions near them, as files: (vectors, questions)."""
    rng = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("bench")
    centers = rng.standard_normal((40, 32))
    rows = centers[rng.integers(0, 40, 1_600)] + 0.5 * rng.standard_normal((1_600, 32))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(folder / "rows.npy", rows[:1_400].astype(np.float32))
    np.save(folder / "asked.npy", rows[1_400:].astype(np.float32))
    return folder / "rows.npy", folder / "asked.npy"


def cell(ms, recall, *, n_probe=1):
    return Cell(n_probe=n_probe, candidates=100, ms=ms, recalls={10: np.array([recall])})


def test_the_cheapest_setting_that_finds_enough_is_taken():
    """The table's claim is the fastest setting at that recall, not the first or the best one."""
    cells = [cell(1, 0.90), cell(3, 0.96, n_probe=2), cell(9, 1.0, n_probe=4)]
    assert cheapest_at(cells, 0.95).n_probe == 2
    assert cheapest_at(cells[:1], 0.95) is None


def test_a_slow_moment_chooses_no_larger_setting():
    """Noise only adds time: what does less work is no slower, whatever was measured."""
    cells = [cell(7, 0.96, n_probe=2), cell(3, 0.97, n_probe=3)]
    assert cheapest_at(cells, 0.95).n_probe == 2


def test_times_are_of_the_same_queries_in_turn():
    """One search must never meet other queries, or more of them, than what it stands beside."""
    asked = [[], []]
    queries = np.arange(40, dtype=np.float32).reshape(20, 2)
    medians_s([asked[0].append, asked[1].append], queries, batch=3, seconds=0)
    assert len(asked[0]) == len(asked[1]) >= 5
    for mine, other in zip(*asked, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert not np.array_equal(asked[0][0], asked[0][1])


def test_the_bare_search_finds_what_the_engine_finds(files, tmp_path):
    """Times stand beside each other only where the answers are the same."""
    vectors, asked = files
    index_dir = built(vectors, "IVF8,PQ16x4fs", n_shards=1, folder=tmp_path)
    parameters = SearchParameters(k=10, n_probe=4, candidates=50)
    (shard,) = opened(index_dir)
    queries = spread(np.load(asked), 64)
    scores, rows = bare_search(index_dir, load_manifest(index_dir), parameters)(queries)
    hits = shard.search(queries, parameters)
    np.testing.assert_array_equal(hits.scores, scores)
    assert (hits.rows == rows).mean() > 0.99  # ties are settled, faiss's are not


def test_four_shards_reach_the_recall_that_one_reaches(files, tmp_path):
    """What is compared is the time at equal recall, so each row must have reached it."""
    vectors, asked = files
    rows = measure_lists(
        vectors, 1_400, "PQ16x4fs", np.load(asked), folder=tmp_path, n_queries=50, seconds=0
    )
    assert [row.n_shards for row in rows] == [1, 4, 4]
    assert rows[0].n_lists == rows[2].n_lists >= rows[1].n_lists
    shards = opened(built(vectors, f"IVF{rows[1].n_lists},PQ16x4fs", n_shards=4, folder=tmp_path))
    (again,) = [
        found
        for found in measure(shards, held_out(spread(np.load(asked), 50)), (10,))
        if (found.n_probe, found.candidates) == (rows[1].n_probe, rows[1].candidates)
    ]
    assert again.recalls[10].mean() == pytest.approx(rows[1].recall)
    assert all(row.recall >= 0.95 for row in rows)


def test_the_command_measures_and_prints_every_table(files, tmp_path):
    """The command runs from two files to all tables, a real shard process among it."""
    vectors, asked = files
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.index", "--vectors", str(vectors), "--questions",
            str(asked), "--folder", str(tmp_path), "--queries", "50", "--seconds", "0",
            "--no-page", "--code", "PQ16x4fs", "--engine-recipe", "IVF8,PQ16x4fs",
            "--recipe", "Flat", "--recipe", "IVF8,PQ16x4fs",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| `Flat` | 64 | 0.0 | 1.000 | - |" in done.stdout
    for begins in ("| `IVF8,PQ16x4fs` |", "| 4 |", "| 64 |"):
        assert begins in done.stdout


def test_the_page_has_one_block_to_replace():
    """The command writes between the markers of the page that is there, and nowhere else."""
    page = PAGE.read_text(encoding="utf-8")
    written = with_block(page, "| new |")
    assert f"{BEGIN}\n| new |\n{END}" in written
    assert written.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert written.partition(END)[2] == page.partition(END)[2]
    with pytest.raises(ValueError, match="0 pairs"):
        with_block("no markers", "| new |")
