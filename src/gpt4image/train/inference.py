"""Answers of a model to a whole dataset, from all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from gpt4image.train.data import Batch, LabelledInputs, Loading, ShareInOrder, make_loader

if TYPE_CHECKING:
    from accelerate import Accelerator


EVALUATION_BATCH = 64


def evaluation_loader(dataset: LabelledInputs, accelerator: Accelerator, loading: Loading) -> DataLoader[Batch]:
    """This process's share of a dataset, in order."""
    batches = ShareInOrder(len(dataset), EVALUATION_BATCH, accelerator.process_index, accelerator.num_processes)
    return make_loader(dataset, batches, loading)


@torch.no_grad()
def predict_logits(model: nn.Module, loader: DataLoader[Batch], accelerator: Accelerator) -> np.ndarray:
    """Logits [N, C], float32, of the whole dataset in its order, on every process.

    Args:
        model: maps inputs to logits; evaluated in evaluation mode.
        loader: made by `evaluation_loader`.
        accelerator: the processes that share the work.
    """
    was_training = model.training
    model.eval()
    parts = []
    for batch in loader:
        with accelerator.autocast():
            parts.append(model(batch.inputs.to(accelerator.device, non_blocking=True)).float())
    model.train(was_training)
    return in_dataset_order(torch.cat(parts), len(loader.dataset), accelerator)  # type: ignore[arg-type]


def in_dataset_order(logits: torch.Tensor, size: int, accelerator: Accelerator) -> np.ndarray:
    """Join the processes' shares; process p holds positions p, p + P, p + 2 P..."""
    share = -(-size // accelerator.num_processes)
    padded = torch.cat([logits, logits.new_zeros(share - len(logits), logits.shape[1])])
    everyone = accelerator.gather(padded).view(accelerator.num_processes, share, -1)
    return np.asarray(everyone.transpose(0, 1).reshape(-1, logits.shape[1])[:size].cpu().numpy())
