"""Top-k retrieval accuracy through the cluster, beside exact search and BM25: `make bench-quality`.

For each test set: exact float32 search in numpy over the same vectors, the served default recipe,
BM25 (bm25s, Lucene's variant with k1=1.5, b=0.75, English stop words out), and all three again
with WordNet's glosses added as distractors and an explicit IVF-PQ recipe, at the index's own
n_probe and at another one. Then recall@10 against exact search over the glosses alone. The sets
are read from `shared/data` beside the checkout.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from bench.cluster import served
from bench.corpora import (
    MODEL,
    SHARED,
    WORK,
    EncodedCorpus,
    build,
    encoded_corpus,
    joined,
    manifest_of,
    write_json,
)
from encoder_service.bulk import PassageEncoder
from encoder_service.model import load_encoder
from shoal.client import Client
from shoal.evaluation.metrics import parse_metrics
from shoal.evaluation.rankings import Found
from shoal.evaluation.score import EvalPlan, evaluate, score
from shoal.evaluation.sets import QuestionSet, read_set

SETS = ("xquad_en", "squad_tr_visible")
METRICS = ("Success@1", "Success@20")
DEPTH = 20
SHARDS = 4
N_RECALL = 1_000


def main() -> None:
    """Measures every set and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="IVF512,PQ96x4fs", help="the explicit recipe")
    parser.add_argument("--n-probe", type=int, default=128, help="another n_probe beside it")
    arguments = parser.parse_args()
    encoder = PassageEncoder(load_encoder(MODEL))
    distractors = encoded_corpus([str(SHARED / "wordnet")], "wordnet")
    lines = []
    for name in SETS:
        folder = SHARED / name
        test_set = read_set(folder, name)
        corpus = encoded_corpus([str(folder)], name)
        lines += _measure(test_set, corpus, encoder, recipe=None, n_probes=(None,))
        lines += _measure(
            test_set,
            joined(corpus, distractors),
            encoder,
            recipe=arguments.recipe,
            n_probes=(None, arguments.n_probe),
        )
    texts = list(test_set.queries.values())[:N_RECALL]
    recall = _recall(build(distractors, n_shards=SHARDS), encoder.encode_queries(texts))
    print(
        "\n| set | passages | how | n_probe | Success@1 | Success@20 |\n|---|--:|---|--:|--:|--:|"
    )
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print(f"\nrecall@10 over {len(distractors.passages):,} glosses, {N_RECALL} questions: {recall}")
    write_json(WORK / "quality.json", {"accuracy": lines, "recall": recall})


def _measure(
    test_set: QuestionSet,
    corpus: EncodedCorpus,
    encoder: PassageEncoder,
    *,
    recipe: str | None,
    n_probes: Sequence[int | None],
) -> list[tuple[str, ...]]:
    texts = [test_set.queries[query_id] for query_id in test_set.asked]
    rankings = {
        "exact float32": _exact(corpus, encoder.encode_queries(texts)),
        "BM25": _bm25(corpus, texts),
    }
    n_passages = f"{len(corpus.passages):,}"
    lines = []
    folder = build(corpus, n_shards=SHARDS, recipe=recipe)
    with served(folder) as target:
        for n_probe in n_probes:
            plan = EvalPlan(target=target, metrics=METRICS, options={"n_probe": n_probe})
            report = evaluate(plan, test_set)
            how = f"Shoal, {SHARDS} shards, {manifest_of(folder).recipe}"
            if report.candidates:
                how += f", {report.candidates} candidates"
            figures = (f"{report.metrics[metric] * 100:.2f}" for metric in METRICS)
            lines.append((test_set.name, n_passages, how, str(report.n_probe or "-"), *figures))
    for how, rows in rankings.items():
        scores = _score(test_set, corpus, rows)
        figures = (f"{scores[metric] * 100:.2f}" for metric in METRICS)
        lines.append((test_set.name, n_passages, how, "-", *figures))
    for line in lines:
        print(line, flush=True)
    return lines


def _recall(folder: Path, query_vectors: npt.NDArray[np.float32]) -> dict[int, float]:
    """By n_probe: the share of the true ten among the ten that the cluster answers."""
    recall: dict[int, float] = {}
    with served(folder) as target, Client(target) as client:

        def tens(*, n_probe: int | None, exact: bool = False) -> tuple[int, list[set[int]]]:
            found: list[set[int]] = []
            for start in range(0, len(query_vectors), 100):
                answers = client.search_many(
                    query_vectors[start : start + 100],
                    timeout_s=60,
                    k=10,
                    fields=(),
                    n_probe=n_probe,
                    exact=exact or None,
                )
                found += [{hit.ordinal for hit in answer.hits} for answer in answers]
            return answers.n_probe, found

        _, true_tens = tens(n_probe=None, exact=True)
        for wanted in (None, 32, 64, 256):
            n_probe, found = tens(n_probe=wanted)
            shares = [len(a & b) / 10 for a, b in zip(found, true_tens, strict=True)]
            recall[n_probe] = round(sum(shares) / len(shares), 4)
    return recall


def _exact(corpus: EncodedCorpus, query_vectors: npt.NDArray[np.float32]) -> list[list[int]]:
    rows: list[list[int]] = []
    for start in range(0, len(query_vectors), 256):
        scores = query_vectors[start : start + 256] @ corpus.vectors.T
        # minus the score and a stable sort: equal scores stay in the order of ingestion
        rows += np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH].tolist()
    return rows


def _bm25(corpus: EncodedCorpus, texts: Sequence[str]) -> list[list[int]]:
    passages = [f"{p.title} {p.text}" for p in corpus.passages]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    queries = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
    rows, _scores = index.retrieve(queries, k=DEPTH, show_progress=False)
    return [[int(row) for row in found] for found in rows]


def _score(
    test_set: QuestionSet, corpus: EncodedCorpus, rankings: Sequence[Sequence[int]]
) -> dict[str, float]:
    found = {
        query_id: tuple(
            Found(corpus.passages[row].id, -float(rank)) for rank, row in enumerate(rows)
        )
        for query_id, rows in zip(test_set.asked, rankings, strict=True)
    }
    return dict(score(parse_metrics(METRICS), test_set, found).figures)


if __name__ == "__main__":
    main()
