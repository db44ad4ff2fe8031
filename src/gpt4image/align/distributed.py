"""Joining batches that are spread over processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError


class World(NamedTuple):
    """The W processes that share a batch, and the rank of this one."""

    rank: int
    size: int


def world() -> World:
    """Return the process group; a world of one if there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return World(0, 1)
    return World(dist.get_rank(), dist.get_world_size())


def largest(*numbers: int, device: torch.device) -> tuple[int, ...]:
    """Return the largest of each number over all processes. Waits for the device."""
    maxima = torch.tensor(numbers, device=device)
    dist.all_reduce(maxima, dist.ReduceOp.MAX)
    return tuple(maxima.tolist())


def zero_loss(*modules: nn.Module) -> Tensor:
    """Return a loss of 0 with a gradient for every weight, which `DistributedDataParallel` expects in each process."""
    return 0 * torch.stack([weights.sum() for module in modules for weights in module.parameters()]).sum()


def gather_rows(local: Tensor, slots: int) -> Tensor:
    """Join the first axis of a tensor over all processes, in rank order; gradients flow back to every process.

    A single process gets its own tensor back. Otherwise each process has `slots` rows in the result [W * slots, ...];
    those it does not fill are zero.

    Gradients: let the loss of each process be W times its share of the joined batch's loss. The backward pass then sums
    the gradients of all processes' losses in each row, and the mean that `DistributedDataParallel` takes turns this
    into the gradient of a single process with the whole batch.

    Args:
        local: rows of this process [n, ...].
        slots: rows reserved for each process, the same on all.

    Raises:
        ConfigError: there are more rows than slots.
    """
    size = world().size
    if size == 1:
        return local
    if len(local) > slots:
        raise ConfigError(
            f"A process has a batch of {len(local)} rows, but at most {slots} are expected. Pass the largest batch "
            "size of a process: AlignmentLoss(..., slots=N)."
        )
    padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, slots - len(local))).contiguous()  # [slots, ...]
    joined: Tensor = _Gather.apply(padded)
    return joined


class _Gather(torch.autograd.Function):
    """Gathers equal numbers of rows; backwards, each process gets the sum of all gradients of its rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.rows = len(own)
        parts = [torch.empty_like(own) for _ in range(world().size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)  # [W * n, ...]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        (gradient,) = gradients  # [W * n, ...]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = world().rank * ctx.rows
        return total[start : start + ctx.rows]
