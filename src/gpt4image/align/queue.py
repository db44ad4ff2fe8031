"""Texts of earlier batches as further negatives, for batches that are small (He et al., "MoCo", arXiv 1911.05722).

Vectors of a frozen text encoder do not grow old, so a queue of them is as good as a larger batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt4image.align.targets import Texts
from gpt4image.core.errors import ConfigError

NO_ID = torch.iinfo(torch.int64).min


class TextQueue(nn.Module):
    """The last texts that were seen, as buffers: they are part of a checkpoint. Rows that are no texts take no place.

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
        self.register_buffer("ids", torch.full((size,), NO_ID))
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
        size, known = len(self.known), texts.known
        age = known.flip(0).cumsum(0).flip(0) - 1  # how many texts come after a row
        kept = known & (age < size)
        places = torch.where(kept, (self.position + known.sum() - 1 - age) % size, size)
        self._put(places, "vectors", texts.vectors.to(self.vectors.dtype))
        self._put(places, "known", known)
        self._put(places, "ids", torch.full_like(places, NO_ID) if texts.ids is None else texts.ids)
        self._put(places, "labels", torch.full_like(places, -1) if texts.labels is None else texts.labels)
        self.position.copy_((self.position + known.sum()) % size)

    def _put(self, places: Tensor, name: str, rows: Tensor) -> None:
        """Write rows to their places; what goes to the place after the last is dropped. Nothing waits for a device."""
        buffer: Tensor = getattr(self, name)
        wider = torch.cat([buffer, buffer[:1]])
        wider[places] = rows
        buffer.copy_(wider[:-1])
