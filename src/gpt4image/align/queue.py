"""Texts of earlier batches as further negatives, for batches that are small (He et al., "MoCo", arXiv 1911.05722).

Vectors of a frozen text encoder do not grow old, so a queue of them is as good as a larger batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt4image.align.targets import Texts
from gpt4image.errors import ConfigError


class TextQueue(nn.Module):
    """The last texts that were seen, as buffers: they are part of a checkpoint.

    Args:
        size: how many.
        width: length D of a vector.
    """

    vectors: Tensor
    known: Tensor
    ids: Tensor
    labels: Tensor
    position: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"A queue must hold at least one text, not {size}.")
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("known", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("ids", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def texts(self, like: Texts) -> Texts:
        """What the queue holds, as copies: it may be filled before the backward pass. Ids and labels as `like` has."""
        return Texts(
            self.vectors.to(like.vectors.dtype, copy=True),
            self.known.clone(),
            None if like.ids is None else self.ids.clone(),
            None if like.labels is None else self.labels.clone(),
        )

    @torch.no_grad()
    def push(self, texts: Texts) -> None:
        """Take the texts of a batch in, in the place of the oldest; of too many the last ones."""
        size = len(self.known)
        rows = slice(-size, None)
        count = min(size, len(texts.known))
        places = (self.position + torch.arange(count, device=self.known.device)) % size
        self.vectors[places] = texts.vectors[rows].to(self.vectors.dtype)
        self.known[places] = texts.known[rows]
        if texts.ids is not None:
            self.ids[places] = texts.ids[rows]
        if texts.labels is not None:
            self.labels[places] = texts.labels[rows]
        self.position.copy_((self.position + count) % size)
