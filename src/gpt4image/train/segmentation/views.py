"""Pictures with masks as inputs: augmented together, with the boxes of regions, which may be aligned with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from gpt4image.images.masks import decode_mask
from gpt4image.tasks.segmentation import MaskLabel
from gpt4image.train.data import ImageInputs, Key
from gpt4image.train.detection.views import BoxView, further_transforms, plain_view
from gpt4image.train.frozen import InputSource
from gpt4image.train.recipe import Recipe

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


class MaskSource(InputSource):
    """A segmentation model together with its inputs."""

    def training(self, rows: np.ndarray, seed: int) -> MaskInputs:
        """Return augmented inputs of the images at some table positions [N]."""
        return MaskInputs(self.images, rows, augmented_view(self.recipe, self.config), seed)

    def evaluation(self, rows: np.ndarray, name: str) -> MaskInputs:
        """Return inputs of the images at some table positions [N], resized alone."""
        return MaskInputs(self.images, rows, plain_view(self.config))


def augmented_view(recipe: Recipe, config: dict[str, Any]) -> BoxView:
    """Return the recipe's augmentation of pictures with masks: crop, flip, and change of colours."""
    plain, scale = plain_view(config), recipe.crop_scale
    crop = v2.RandomResizedCrop(plain.size, scale) if scale[0] < 1 else None
    return BoxView(plain.size, plain.fill, crop, further_transforms(recipe))
