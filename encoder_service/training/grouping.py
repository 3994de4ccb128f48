"""Which pairs belong together, so that a batch of them is hard: by title, or by topic.

Topics are clusters of the questions' vectors under the untrained model (topic-aware sampling,
Hofstätter et al. 2021, arXiv:2104.06967).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans

from encoder_service.training.pairs import TrainingPair
from encoder_service.training.settings import Grouping

ALONE = -1
_PAIRS_A_TOPIC = 256


def by_title(pairs: Sequence[TrainingPair], *, at_least: int) -> npt.NDArray[np.int64]:
    """The number of each pair's group, ALONE for groups of fewer than `at_least` pairs.

    Nor is a group of one passage's questions one: they would have no negative among themselves.
    """
    sizes = Counter(pair.group for pair in pairs)
    n_passages = Counter(group for group, _ in {(pair.group, pair.positive_key) for pair in pairs})
    numbers = {
        group: number
        for number, group in enumerate(sorted(sizes))
        if group and sizes[group] >= at_least and n_passages[group] > 1
    }
    return np.array([numbers.get(pair.group, ALONE) for pair in pairs], dtype=np.int64)


def by_topic(question_vectors: npt.NDArray[np.float32], *, seed: int) -> npt.NDArray[np.int64]:
    """The cluster of each question: (n,) from (n, dim), some 256 questions a cluster."""
    n_topics = max(1, len(question_vectors) // _PAIRS_A_TOPIC)
    # the number of samples a step bounds memory; three starts are scikit-learn's own default
    clusters = MiniBatchKMeans(n_topics, random_state=seed, batch_size=4096, n_init=3)
    return np.asarray(clusters.fit_predict(question_vectors), dtype=np.int64)


def needs_topics(grouping: Grouping, titled: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which pairs are grouped by topic: all, none, or with `auto` those that no title groups."""
    if grouping == "topic":
        return np.ones(len(titled), dtype=np.bool_)
    if grouping == "auto":
        return np.asarray(titled == ALONE)
    return np.zeros(len(titled), dtype=np.bool_)


def joined(
    titled: npt.NDArray[np.int64],
    topical: npt.NDArray[np.bool_],
    topics: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Groups by title, and by the `topics` of the pairs that `topical` marks, numbered apart."""
    groups = titled.copy()
    groups[topical] = topics + titled.max(initial=ALONE) + 1
    return groups
