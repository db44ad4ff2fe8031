"""Batches that are spread over processes, seen as one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_batch(local: Tensor) -> Tensor:
    """Join a tensor's first axis over all processes, in rank order; gradients flow back to every process.

    Without a process group the tensor itself is returned. Every process must bring the same shape. When every
    process computes the same loss of the joined batch, the backward pass sums the processes' equal gradients, and the
    mean that `DistributedDataParallel` takes makes of that sum the gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    if not local.requires_grad:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(local.contiguous()))  # type: ignore[no-untyped-call]
