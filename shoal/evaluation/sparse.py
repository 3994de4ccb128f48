"""Sparse search over a corpus in memory: BM25 and TF-IDF, the contrast to dense vectors.

BM25 is bm25s' (Lucene's variant, k1 1.5, b 0.75), TF-IDF is scikit-learn's with sublinear counts
and the cosine. Both read a passage as its title and its text, and leave out English stop words.
Equal scores are settled by the corpus's order.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from shoal.errors import CorpusError, InvalidArgumentError

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Baseline = Literal["bm25", "tfidf"]

_NO_WORDS = "the corpus has no words that a sparse search could find, stop words aside"


class SparseSearch(Protocol):
    """A corpus that can be asked with words; CorpusError where it has none."""

    def scores(self, question: str) -> Scores:
        """One score a passage, float32 (n_passages,); 0 where no word is shared."""


class Bm25:
    """BM25 over texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s  # noqa: PLC0415 -- an optional extra

        self._bm25s = bm25s
        self._n_texts = len(texts)
        self._index = bm25s.BM25()
        tokens = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        if not tokens.vocab:
            raise CorpusError(_NO_WORDS)
        self._index.index(tokens, show_progress=False)

    def scores(self, question: str) -> Scores:
        """As `SparseSearch`."""
        tokens = self._bm25s.tokenize(
            [question], stopwords="en", return_ids=False, show_progress=False
        )[0]
        if not tokens:
            return np.zeros(self._n_texts, dtype=np.float32)
        return np.asarray(self._index.get_scores(tokens), dtype=np.float32)


class TfIdf:
    """TF-IDF vectors of texts, compared by their cosine."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import (  # noqa: PLC0415 -- an optional extra
            TfidfVectorizer,
        )

        self._words: Any = TfidfVectorizer(
            stop_words="english", sublinear_tf=True, dtype=np.float32
        )
        try:
            self._by_word = self._words.fit_transform(texts).T.tocsr()
        except ValueError as failure:  # "empty vocabulary"
            raise CorpusError(_NO_WORDS) from failure

    def scores(self, question: str) -> Scores:
        """As `SparseSearch`."""
        return np.asarray((self._words.transform([question]) @ self._by_word).toarray()[0])


def parse_baselines(names: Sequence[str]) -> tuple[Baseline, ...]:
    """The baselines of those names, each once.

    Raises:
        InvalidArgumentError: one that isn't known.
    """
    known: dict[str, Baseline] = {name: name for name in get_args(Baseline)}
    for name in names:
        if name not in known:
            raise InvalidArgumentError(
                f"baseline {name!r}; known are {', '.join(known)}", field="baseline"
            )
    return tuple(dict.fromkeys(known[name] for name in names))


def open_sparse(name: Baseline, texts: Sequence[str]) -> SparseSearch:
    """The baseline of that name over `texts`, in the order that ties are settled by."""
    return Bm25(texts) if name == "bm25" else TfIdf(texts)


def top_rows(scores: Scores, k: int) -> Rows:
    """The rows of the best `k` scores above 0, best first, ties by row."""
    n_wanted = min(k, int(np.count_nonzero(scores > 0)))
    if not n_wanted:
        return np.empty(0, dtype=np.int64)
    least = np.partition(scores, len(scores) - n_wanted)[len(scores) - n_wanted]
    rows = np.flatnonzero(scores >= max(least, np.finfo(np.float32).tiny))
    best: Rows = rows[np.lexsort((rows, -scores[rows]))][:n_wanted]
    return best
