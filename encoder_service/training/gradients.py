"""One batch's gradients, in the memory of a chunk, and over all processes.

A batch's loss needs all of its vectors, but its gradient needs the activations of one chunk at a
time: GradCache (Gao et al. 2021, arXiv:2101.06983). Vectors are first computed without a graph and
gathered from all processes; every process takes the gradient of the whole loss with regard to its
own vectors, so that negatives from other processes count in full; then each chunk is computed
again, with the random numbers of its first time, and carries its vectors' gradient down.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from encoder_service.training.loss import Batch, contrastive_loss
from encoder_service.training.pairs import PassageText
from encoder_service.training.world import World

Text = TypeVar("Text")
Encode = Callable[[Sequence[Text]], Tensor]
"""Texts to their vectors (n, dim), with a graph where gradients are on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoss:
    """The loss of the whole batch, over all processes, and how often the positive scored best."""

    loss: float
    accuracy: float


def add_gradients(
    batch: Batch,
    encode_questions: Encode[str],
    encode_passages: Encode[PassageText],
    world: World,
    *,
    temperature: float,
    chunk_size: int,
) -> StepLoss:
    """Adds the gradients of `batch`'s mean loss to the towers' parameters, this process's share.

    The shares of all processes sum to the gradient of the whole (`World.sum_gradients`).

    Args:
        batch: the same in every process.
        encode_questions: the question tower; called with at most `chunk_size` texts.
        encode_passages: the passage tower.
        world: who else computes.
        temperature: as `contrastive_loss`.
        chunk_size: texts whose activations are held at once. A batch that fits whole is computed
            once; a larger one twice.
    """
    ranks = [World(rank=rank, size=world.size) for rank in range(world.size)]
    pair_slices = [each.slice_of(len(batch.pairs)) for each in ranks]
    passage_slices = [each.slice_of(len(batch.passages)) for each in ranks]
    own_pairs, own_passages = pair_slices[world.rank], passage_slices[world.rank]
    questions = _Side(
        [pair.question for pair in batch.pairs[own_pairs]], encode_questions, chunk_size
    )
    # a batch whose pairs share their passages may have fewer of them than there are processes
    nothing = questions.vectors[:0]
    passages = _Side(batch.passages[own_passages], encode_passages, chunk_size, empty=nothing)

    all_questions = world.gather_rows(questions.vectors, [s.stop - s.start for s in pair_slices])
    all_passages = world.gather_rows(passages.vectors, [s.stop - s.start for s in passage_slices])
    all_questions = all_questions.detach().requires_grad_()
    all_passages = all_passages.detach().requires_grad_()
    judged = contrastive_loss(all_questions, all_passages, batch, temperature=temperature)
    judged.loss.backward()  # type: ignore[no-untyped-call]
    assert all_questions.grad is not None
    assert all_passages.grad is not None
    questions.backward(all_questions.grad[own_pairs])
    passages.backward(all_passages.grad[own_passages])
    return StepLoss(loss=float(judged.loss.detach()), accuracy=judged.accuracy)


class _Side(Generic[Text]):
    """One tower's texts of a batch: their vectors now, their gradients later.

    `empty` (0, dim) are the vectors of no texts.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        encode: Encode[Text],
        chunk_size: int,
        *,
        empty: Tensor | None = None,
    ) -> None:
        self._encode = encode
        self._chunks = [texts[i : i + chunk_size] for i in range(0, len(texts), chunk_size)]
        self._whole: Tensor | None = None
        self._randomness: list[_Randomness] = []
        if not texts:
            assert empty is not None  # a process without questions is refused before
            self.vectors = empty
            return
        if len(self._chunks) == 1:
            self._whole = encode(self._chunks[0])
            self.vectors = self._whole.detach()
            return
        with torch.no_grad():
            parts = []
            for chunk in self._chunks:
                self._randomness.append(_Randomness())
                parts.append(encode(chunk))
        self.vectors = torch.cat(parts)

    def backward(self, gradient: Tensor) -> None:
        """Carries the vectors' gradient (n, dim) down to the parameters."""
        if self._whole is not None:
            self._whole.backward(gradient.to(self._whole.dtype))  # type: ignore[no-untyped-call]
            return
        start = 0
        for chunk, randomness in zip(self._chunks, self._randomness, strict=True):
            with randomness.again():
                vectors = self._encode(chunk)
            part = gradient[start : start + len(chunk)]
            vectors.backward(part.to(vectors.dtype))  # type: ignore[no-untyped-call]
            start += len(chunk)


class _Randomness:
    """The state of the random numbers at one moment, so that dropout falls the same way again."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    @contextmanager
    def again(self) -> Iterator[None]:
        """A context in which they are as they were; outside of it nothing changes."""
        with torch.random.fork_rng(devices=range(len(self._cuda))):
            torch.set_rng_state(self._cpu)
            if self._cuda:
                torch.cuda.set_rng_state_all(self._cuda)
            yield
