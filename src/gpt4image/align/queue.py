"""Texts of earlier batches as further negatives for small batches (He et al., "MoCo", arXiv 1911.05722).

The vectors of a frozen text encoder do not go stale, so a queue of them is as good as a larger batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt4image.align.targets import Texts
from gpt4image.core.errors import ConfigError

NO_ID = torch.iinfo(torch.int64).min  # equals no image's number


class TextQueue(nn.Module):
    """A ring buffer of the latest Q texts. Its buffers are part of a checkpoint; rows without text are not queued.

    Args:
        size: number Q of texts.
        width: length D of a vector.
    """

    vectors: Tensor  # [Q, D]
    known: Tensor  # bool [Q]
    ids: Tensor  # int64 [Q]
    labels: Tensor  # int64 [Q]
    position: Tensor  # scalar: the place of the oldest text, which is overwritten next

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
        """Return the queued texts [Q], with ids and labels if `like` has them.

        They are copies, because the backward pass reads them after `push` has overwritten the buffers.
        """
        return Texts(
            self.vectors.to(like.vectors.dtype, copy=True),
            self.known.clone(),
            None if like.ids is None else self.ids.clone(),
            None if like.labels is None else self.labels.clone(),
        )

    @torch.no_grad()
    def push(self, texts: Texts) -> None:
        """Overwrite the oldest texts with those of a batch [N]; of more than Q texts the last Q are kept."""
        size, known = len(self.known), texts.known
        age = known.flip(0).cumsum(0).flip(0) - 1  # [N]: number of texts that come after a row
        kept = known & (age < size)
        # a row is dropped by writing it to place Q, beyond the last: fixed shapes need not wait for the device
        places = torch.where(kept, (self.position + known.sum() - 1 - age) % size, size)
        self._put(places, "vectors", texts.vectors.to(self.vectors.dtype))
        self._put(places, "known", known)
        self._put(places, "ids", torch.full_like(places, NO_ID) if texts.ids is None else texts.ids)
        self._put(places, "labels", torch.full_like(places, -1) if texts.labels is None else texts.labels)
        self.position.copy_((self.position + known.sum()) % size)

    def _put(self, places: Tensor, name: str, rows: Tensor) -> None:
        buffer: Tensor = getattr(self, name)
        wider = torch.cat([buffer, buffer[:1]])  # [Q + 1, ...]
        wider[places] = rows
        buffer.copy_(wider[:-1])
