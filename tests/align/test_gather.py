"""The gradient of a batch spread over processes is that of the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gpt4image import AlignmentLoss
from gpt4image.align.losses import LOSSES

BATCH, WIDTH = 8, 6


def batch():
    generator = torch.Generator().manual_seed(0)
    has_text = torch.tensor([True, True, False, True, True, True, True, False])
    inputs, text = (torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return inputs, text, has_text


def gradient(loss_name: str, model: nn.Module, share: slice) -> torch.Tensor:
    inputs, text, has_text = (tensor[share] for tensor in batch())
    AlignmentLoss(loss_name, 0.1)(model(inputs), text, has_text).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, WIDTH, dtype=torch.float64)


def worker(rank: int, processes: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes)
    share = slice(rank * BATCH // processes, (rank + 1) * BATCH // processes)
    for name in LOSSES:
        found = gradient(name, DistributedDataParallel(linear()), share)
        if rank == 0:
            torch.save(found, folder / f"{name}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 4])
def test_gradient_does_not_depend_on_the_number_of_processes(processes, tmp_path):
    mp.spawn(worker, (processes, tmp_path), nprocs=processes)
    for name in LOSSES:
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        torch.testing.assert_close(found, gradient(name, linear(), slice(0, BATCH)), atol=1e-10, rtol=0)
