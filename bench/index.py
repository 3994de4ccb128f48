"""The recipes side by side, lists by shard size, what a shard adds to faiss: `make bench-index`.

WordNet's 117,659 glosses, each recipe built once by the real builder and kept, asked 500 of
SQuAD's questions. The tables replace the block between the markers of docs/index.md.
"""

import argparse
import os
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np

from bench import engine_cost, recipe_table, shard_lists
from bench.corpora import WORK
from bench.stored import built, passage_vectors, question_vectors
from shoal.vectors import Matrix

PAGE = Path(__file__).resolve().parents[1] / "docs/index.md"
BEGIN, END = "<!-- begin: make bench-index -->", "<!-- end: make bench-index -->"


def main() -> None:
    """Measures everything, prints the tables and writes them into the page."""
    arguments = _arguments()
    vectors = arguments.vectors or passage_vectors()
    questions = np.load(arguments.questions) if arguments.questions else question_vectors()
    n_rows, dim = np.load(vectors, mmap_mode="r").shape
    where = (
        f"{n_rows:,} vectors of {dim} dimensions, {arguments.queries} questions, k 10; "
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, faiss {faiss.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}.\n"
    )
    block = "\n".join([where, *_tables(arguments, vectors, questions, n_rows)])
    print(f"\n{block}")
    if not arguments.no_page:
        PAGE.write_text(with_block(PAGE.read_text(encoding="utf-8"), block), encoding="utf-8")


def _tables(
    arguments: argparse.Namespace, vectors: Path, questions: Matrix, n_rows: int
) -> Iterator[str]:
    rows = []
    for recipe in arguments.recipe or recipe_table.RECIPES:
        rows.append(
            recipe_table.measure_recipe(
                vectors,
                recipe,
                questions,
                folder=arguments.folder,
                n_queries=arguments.queries,
                seconds=arguments.seconds,
            )
        )
        print(rows[-1].line(), flush=True)
    yield from (recipe_table.HEADER, *(row.line() for row in rows))
    lists = shard_lists.measure_lists(
        vectors,
        n_rows,
        arguments.code,
        questions,
        folder=arguments.folder,
        n_queries=arguments.queries,
        seconds=3 * arguments.seconds,
    )
    yield "\nLists by shard size, at a recall of 0.95:\n"
    yield from (shard_lists.HEADER, *(row.line(lists[0].batch_s) for row in lists))
    setting = next((row.setting for row in rows if row.recipe == arguments.engine_recipe), None)
    engine = engine_cost.measure_engine(
        built(vectors, arguments.engine_recipe, n_shards=1, folder=arguments.folder),
        questions,
        n_probe=setting.n_probe if setting else 96,
        candidates=setting.candidates if setting else 100,
        seconds=arguments.seconds,
    )
    yield f"\n`{arguments.engine_recipe}` in one shard, at that recall:\n"
    yield from (engine_cost.HEADER, *(row.line() for row in engine))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, help="a .npy (n, dim); WordNet's glosses without")
    parser.add_argument("--questions", type=Path, help="a .npy (n, dim); SQuAD's without")
    parser.add_argument("--folder", type=Path, default=WORK / "recipes", help="built indexes")
    parser.add_argument("--recipe", action="append", help="instead of the table's recipes")
    parser.add_argument("--code", default="PQ96x4fs", help="behind the lists by shard size")
    parser.add_argument("--engine-recipe", default="IVF512,PQ96x4fs", help="beside IndexRefine")
    parser.add_argument("--queries", type=int, default=500, help="questions that recall is over")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each timing")
    parser.add_argument("--no-page", action="store_true", help="leave docs/index.md as it is")
    return parser.parse_args()


def with_block(page: str, block: str) -> str:
    """The page with what stands between its markers replaced. Pure.

    Raises:
        ValueError: the page has not one pair of markers.
    """
    found = re.findall(f"{BEGIN}.*?{END}", page, flags=re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the page has {len(found)} pairs of {BEGIN} and {END}; it needs one")
    return page.replace(found[0], f"{BEGIN}\n{block}\n{END}")


if __name__ == "__main__":
    main()
