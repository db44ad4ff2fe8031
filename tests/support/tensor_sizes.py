"""What tensors a computation makes, and whether it reads them."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)


class Sizes(TorchDispatchMode):
    """Notes the most numbers that any tensor holds, and reads of values, which wait for a device."""

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
