"""Random vectors, and a record of the tensors that a computation makes."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt4image.align.losses import find_loss

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)


def draw_vectors(seed, size=6, width=4, dtype=torch.float64):
    """Draw normally distributed vectors [size, width]."""
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss_inputs(loss, width, dtype=torch.float32):
    """Return what a loss takes besides its settings: anchors of three classes [3, width], if it has any."""
    return {"anchors": draw_vectors(9, 3, width, dtype)} if find_loss(loss)[1].has_anchors else {}


class Sizes(TorchDispatchMode):
    """Records the size of the largest tensor, and reads of values, which wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.reads = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.numel())
        if function.overloadpacket in READS:
            self.reads.append(str(function))
        return result
