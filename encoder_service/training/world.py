"""The processes that train together: one of many, or the only one.

Started by `accelerate launch` or torchrun, which tell a process its place by the environment. Every
process holds the same weights and the same plan, so that vectors and gradients are all they tell
each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process's place among `size`; `rank` 0 writes files and speaks."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def slice_of(self, n_items: int) -> slice:
        """This process's part of a list of `n_items`: contiguous, by rank, as even as can be."""
        return slice(n_items * self.rank // self.size, n_items * (self.rank + 1) // self.size)

    def gather_rows(self, own: Tensor, n_rows: Sequence[int]) -> Tensor:
        """All processes' rows, by rank: (sum of `n_rows`, dim) from each one's (n_rows[rank], dim).

        Carries no gradient: whoever needs one has the whole loss to take it from.
        """
        if self.size == 1:
            return own
        padded = own.new_zeros((max(n_rows), own.shape[1]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in n_rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, n_rows, strict=True)])

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replaces each gradient by its sum over all processes."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # every process must take part, whatever it computed
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def as_led(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The leading process's (n,) numbers: floats may differ by process, plans may not."""
        if self.size == 1:
            return numbers
        told = torch.from_numpy(numbers).to(self.device)
        dist.broadcast(told, src=0)
        return told.cpu().numpy()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str = "auto") -> World:
    """The processes that the launcher's environment tells of; this one alone where it tells none.

    Args:
        device: "auto" takes a GPU where there is one; "cpu" doesn't.
    """
    # where there is no GPU, accelerate has to be told that processes meet on the CPU: else each of
    # those that torchrun started takes itself for the only one
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    return World(rank=state.process_index, size=state.num_processes, device=state.device)
