"""Batches that are spread over processes, seen as one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gpt4image.core.errors import ConfigError


class World(NamedTuple):
    """The processes that share a batch: this one's rank, and how many there are."""

    rank: int
    size: int


def world() -> World:
    """The process group, or a world of one where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return World(0, 1)
    return World(dist.get_rank(), dist.get_world_size())


def most_rows(*rows: int, device: torch.device) -> tuple[int, ...]:
    """The largest of each number over all processes. Waits for the device."""
    sizes = torch.tensor(rows, device=device)
    dist.all_reduce(sizes, dist.ReduceOp.MAX)
    return tuple(sizes.tolist())


def gather_rows(local: Tensor, slots: int) -> Tensor:
    """Join a tensor's first axis over all processes, in rank order; gradients flow back to every process.

    Without other processes the tensor itself is returned. Otherwise every process has `slots` rows in the result
    [W * slots, ...], those that it does not fill are zero. When the loss of every process is its share of the loss of
    the joined batch times the number of processes, the backward pass sums what the processes' losses say of each row,
    and the mean that `DistributedDataParallel` takes makes of that the gradient of one process with the whole batch.

    Args:
        local: rows of this process [n, ...].
        slots: rows kept for every process, the same on all.

    Raises:
        ConfigError: there are more rows than slots.
    """
    size = world().size
    if size == 1:
        return local
    if len(local) > slots:
        raise ConfigError(
            f"A process brought a batch of {len(local)} rows where {slots} are expected of each. Pass the largest "
            "batch of a process: AlignmentLoss(..., slots=N)."
        )
    padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, slots - len(local))).contiguous()
    joined: Tensor = Gather.apply(padded)
    return joined


class Gather(torch.autograd.Function):
    """Rows of all processes; backwards each gets the sum of what all say of its rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """Join equal numbers of rows [n, ...] in rank order [W * n, ...]."""
        ctx.rows = len(own)
        parts = [torch.empty_like(own) for _ in range(world().size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        """The sum over processes of the gradients of this one's rows."""
        (gradient,) = gradients
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = world().rank * ctx.rows
        return total[start : start + ctx.rows]
