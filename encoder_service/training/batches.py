"""Which pairs learn together. Pure: a plan is a function of the pairs, the seed and the epoch.

In-batch negatives teach what the batch makes hard: among random passages every question finds its
own at once, among passages of one article it has to read. Grouped batches hold blocks of one group
(an article's title, or a topic: topic-aware sampling, Hofstätter et al. 2021, arXiv:2104.06967).
Some pairs of one passage may come together, for a passage is encoded once for all its questions in
a batch, and costs ten times as much as one; the others come into different batches as far as
they can.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def plan_epoch(
    groups: npt.NDArray[np.int64],
    passages: npt.NDArray[np.int64],
    *,
    batch_size: int,
    block_size: int,
    questions_per_passage: int = 1,
    seed: int,
    epoch: int,
) -> list[Rows]:
    """The batches of one epoch: rows of pairs, each once; the last few that fill none are left out.

    Args:
        groups: (n,) the group of each pair; -1 stands alone.
        passages: (n,) equal for pairs of the same passage.
        batch_size: pairs a batch.
        block_size: pairs of one group that come together, at most; 1 is a random order.
        questions_per_passage: pairs of one passage that come together within a block, at most.
        seed: of the whole training.
        epoch: from 0.

    Raises:
        ValueError: sizes below 1.
    """
    if batch_size < 1 or block_size < 1 or questions_per_passage < 1:
        raise ValueError("batch_size, block_size and questions_per_passage must be at least 1")
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(groups))
    if block_size > 1:
        n_mates = questions_per_passage
        order = order[_in_blocks(groups[order], passages[order], block_size, n_mates, rng)]
    n_batches = len(order) // batch_size
    batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(n_batches)]
    return [batches[i] for i in rng.permutation(n_batches)]


def _in_blocks(
    groups: Rows, passages: Rows, block_size: int, n_mates: int, rng: np.random.Generator
) -> Rows:
    """An order of all rows in which a group's stand in blocks, those of a passage by `n_mates`."""
    alone = groups < 0
    groups = np.where(alone, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)
    _, first, numbers = np.unique(passages, return_index=True, return_inverse=True)
    # by group, then by how often the passage came before: a block then repeats it as late as it can
    order = np.lexsort((first[numbers], _occurrence(passages) // n_mates, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    blocks: list[Rows] = []
    for members in np.split(order, starts[1:]):
        blocks += [members[i : i + block_size] for i in range(0, len(members), block_size)]
    # whole blocks first, so that those that divide a batch stay in one; the remainders of all
    # groups fill up the end
    whole = [block for block in blocks if len(block) == block_size]
    parts = [block for block in blocks if len(block) < block_size]
    shuffled = [*_shuffled(whole, rng), *_shuffled(parts, rng)]
    return np.concatenate(shuffled) if shuffled else order


def _shuffled(blocks: Sequence[Rows], rng: np.random.Generator) -> list[Rows]:
    return [blocks[i] for i in rng.permutation(len(blocks))]


def _occurrence(values: Rows) -> Rows:
    """For each place, how often its value stands before it."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=ranked[0] - 1 if len(ranked) else 0))
    first = np.zeros(len(values), dtype=np.int64)
    first[starts] = starts
    turns = np.empty(len(values), dtype=np.int64)
    turns[order] = np.arange(len(values)) - np.maximum.accumulate(first)
    return turns
