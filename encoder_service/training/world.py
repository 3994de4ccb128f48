"""The processes that train together: one of many, or the only one.

Started by `shoal train --processes`, `accelerate launch` or torchrun, which tell a process its
place by the environment. Every process holds the same weights and the same plan, so that vectors
and gradients are all they tell each other.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from encoder_service.training.place import meeting_of
from shoal.errors import ConfigError

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
        """Replaces each gradient by its sum over all processes.

        What no process has a gradient for stays without: of zeros the optimizer's decay would make
        a change, which one process alone doesn't.
        """
        if self.size == 1:
            return
        listed = list(parameters)
        reached = torch.tensor([each.grad is not None for each in listed], device=self.device)
        reached = reached.to(torch.int32)
        dist.all_reduce(reached)
        for parameter, n_processes in zip(listed, reached.tolist(), strict=True):
            if not n_processes:
                continue
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

    def require_same(self, what: str, value: str) -> None:
        """Refuses, in every process, to go on where not all of them have the same `value`.

        Raises:
            ConfigError: naming `what` differs.
        """
        digest = hashlib.blake2b(value.encode(), digest_size=7).digest()
        own = torch.tensor([[int.from_bytes(digest, "big")]], device=self.device)
        told = self.gather_rows(own, [1] * self.size)
        if bool((told != told[0]).any()):
            raise ConfigError(
                f"the {self.size} processes have different {what}; give all of them the same"
            )

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str = "auto") -> World:
    """The processes that the launcher's environment tells of; this one alone where it tells none.

    Args:
        device: "auto" takes a GPU where there is one; "cpu" doesn't.

    Raises:
        ConfigError: this machine has more processes than GPUs.
    """
    n_gpus = torch.cuda.device_count() if device == "auto" else 0
    if 0 < n_gpus <= int(os.environ.get("LOCAL_RANK", "0")):
        raise ConfigError(
            f"there are more processes than GPUs on this machine ({n_gpus}); start one for each, "
            "or give --device cpu"
        )
    # where there is no GPU, accelerate has to be told that processes meet on the CPU: else each of
    # those that torchrun started takes itself for the only one
    cpu = device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu, **meeting_of(os.environ))
    return World(rank=state.process_index, size=state.num_processes, device=state.device)


def leave_world() -> None:
    """Ends what `join_world` began: torch warns of processes that end without."""
    if dist.is_initialized():
        dist.destroy_process_group()
