"""The contrastive loss over in-batch and hard negatives. Pure functions of tensors.

For each question the negative log-likelihood of its passage among all passages of the batch,
-log(exp(s_pos / t) / sum(exp(s / t))), as in Karpukhin et al. 2020 (arXiv:2004.04906), equation 2,
with a temperature t. Passages that are known to answer the question, or read the same as one that
does, are left out of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.training.pairs import PassageText, TrainingPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pairs that learn together, with their passages laid out in a row.

    `passages` holds the pairs' positives and hard negatives, each passage once, however many of
    the questions it answers; `positives` (n,) is where each pair's positive stands; `allowed`
    (n, m) says which passages count for which question: its positive, and what is no gold passage
    of it.
    """

    pairs: tuple[TrainingPair, ...]
    passages: tuple[PassageText, ...]
    positives: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A batch's loss (a scalar, with its graph), and how often the positive scored best."""

    loss: Tensor
    accuracy: float


def make_batch(pairs: Sequence[TrainingPair], *, n_hard_negatives: int) -> Batch:
    """Lays out a batch with up to `n_hard_negatives` of each pair's, the first ones."""
    passages: dict[int, PassageText] = {}
    for pair in pairs:
        passages.setdefault(pair.positive_key, pair.positive)
        for negative in pair.hard_negatives[:n_hard_negatives]:
            passages.setdefault(negative.key, negative)
    rows = {key: row for row, key in enumerate(passages)}
    positives = [rows[pair.positive_key] for pair in pairs]
    key_row = np.fromiter(passages, dtype=np.uint64)
    allowed = np.ones((len(pairs), len(passages)), dtype=np.bool_)
    for row, pair in enumerate(pairs):
        allowed[row] = ~np.isin(key_row, np.fromiter(pair.gold_keys, dtype=np.uint64))
        allowed[row, positives[row]] = True
    return Batch(
        pairs=tuple(pairs),
        passages=tuple(passages.values()),
        positives=np.array(positives, dtype=np.int64),
        allowed=allowed,
    )


def contrastive_loss(
    question_vectors: Tensor, passage_vectors: Tensor, batch: Batch, *, temperature: float
) -> Judged:
    """The mean loss of a batch.

    Args:
        question_vectors: float (n, dim), in the order of `batch.pairs`.
        passage_vectors: float (m, dim), in the order of `batch.passages`.
        batch: what they are.
        temperature: divides the inner products; > 0.
    """
    device = question_vectors.device
    scores = question_vectors.float() @ passage_vectors.float().T / temperature
    allowed = torch.from_numpy(batch.allowed).to(device)
    positives = torch.from_numpy(batch.positives).to(device)
    scores = scores.masked_fill(~allowed, -torch.inf)
    loss = torch.nn.functional.cross_entropy(scores, positives)
    accuracy = (scores.argmax(dim=1) == positives).float().mean()
    return Judged(loss=loss, accuracy=float(accuracy))
