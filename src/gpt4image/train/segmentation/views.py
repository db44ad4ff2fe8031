"""Pictures with masks as inputs: augmented together, with the boxes of regions, which may be aligned with texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt4image.images.masks import decode_mask
from gpt4image.tasks.segmentation import MaskLabel
from gpt4image.train.data import ImageInputs, Key
from gpt4image.train.detection.views import BoxSource, BoxView

NO_BOX = np.full((1, 5), -1, np.float32)


class MaskInputs(ImageInputs):
    """Views of images whose masks and regions follow the augmentation."""

    _view: BoxView

    def batch(self, keys: Sequence[Key], labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs uint8 [B, 3, S, S] and what is true of them, as `tasks.segmentation` packs it."""
        found = [self._one(*key, label) for key, label in zip(keys, labels, strict=True)]
        inputs, masks, boxes = zip(*found, strict=True)
        most = max(map(len, boxes))
        padded = [torch.cat([each, each.new_full((most - len(each), 5), -1.0)]).flatten() for each in boxes]
        return torch.stack(inputs), torch.cat([torch.stack(masks).flatten(1), torch.stack(padded)], dim=1)

    def regions(self, labels: Tensor) -> Tensor:
        """Return the boxes of regions in labels of a batch, float32 [B, M, 5]."""
        return labels[:, self._view.size**2 :].reshape(len(labels), -1, 5)

    def _one(self, draw: int, position: int, label: MaskLabel | None) -> tuple[Tensor, Tensor, Tensor]:
        image, key = self._images.encoded(int(self._rows[position])), (self._seed, draw, position)
        if label is None:
            pixels, boxes = self._view.with_boxes(image, key, NO_BOX)
            return pixels, torch.full((self._view.size,) * 2, torch.nan), boxes
        return self._view.with_mask(image, key, label.boxes, decode_mask(label.mask))


class MaskSource(BoxSource):
    """A segmentation model together with its inputs."""

    inputs = MaskInputs
