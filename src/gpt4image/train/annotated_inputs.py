"""Pictures with boxes or masks as inputs: square, and augmented so that these stay where the objects are.

A picture is padded at its right and bottom to a square and resized, so positions in shares of its longer side are
positions in shares of the input's side. Boxes are float [M, 5]: class, -1 for none, and corners in these shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gpt4image.images.decode import EncodedImage
from gpt4image.images.masks import VOID, decode_mask
from gpt4image.tasks.segmentation import MaskLabel
from gpt4image.train.data import ImageInputs, Key
from gpt4image.train.frozen import InputSource
from gpt4image.train.recipe import Recipe
from gpt4image.train.transforms import seed_everything

LEAST_CROPPED = 16  # pixels that an image's shorter side must have for it to be cropped
LEAST_BOX = 1  # pixels that a box must have after cropping
NO_BOX = np.full((1, 5), -1, np.float32)


@dataclass(frozen=True)
class BoxView:
    """Makes an input of a picture and its boxes.

    Attributes:
        size: side of the input S in pixels.
        fill: colour of the padding, from 0 to 255.
        crop: crops so that objects stay (Liu et al., arXiv 1512.02325, section 2.2); None for no crop.
        more: further random transforms; None for none.
    """

    size: int
    fill: tuple[float, ...]
    crop: v2.Transform | None = None
    more: v2.Transform | None = None

    def __call__(self, image: EncodedImage, key: tuple[int, ...]) -> Tensor:
        """Return the input without its boxes, uint8 [3, S, S]."""
        return self.with_boxes(image, key, NO_BOX)[0]

    def with_boxes(self, image: EncodedImage, key: tuple[int, ...], boxes: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return an input uint8 [3, S, S] and the boxes in it, float32 [M, 5], each in its row; -1 where it is gone.

        Args:
            image: the picture.
            key: what random draws depend on.
            boxes: its boxes, float32 [M, 5]; NaN where they are not known, and remain so. Those without a class are
                hidden.
        """
        pixels, placed, _ = self._placed(image, key, boxes, None)
        return pixels, placed

    def with_mask(
        self, image: EncodedImage, key: tuple[int, ...], boxes: np.ndarray, mask: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return an input uint8 [3, S, S], its mask float32 [S, S], void around the picture, and its boxes [M, 5].

        Args:
            image: the picture.
            key: what random draws depend on.
            boxes: the boxes of its regions, float32 [M, 5].
            mask: uint8 [H, W].
        """
        pixels, placed, found = self._placed(image, key, boxes, mask)
        assert found is not None
        return pixels, found, placed

    def _placed(
        self, image: EncodedImage, key: tuple[int, ...], boxes: np.ndarray, mask: np.ndarray | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return an input, the boxes in it, and its mask if there is one."""
        picture = hide_unknown(image.decode(), boxes, self.fill)
        rows, longer = np.flatnonzero(boxes[:, 0] >= 0), max(picture.size)
        corners = tv_tensors.BoundingBoxes(
            torch.from_numpy(boxes[rows, 1:] * longer), format="XYXY", canvas_size=(picture.height, picture.width)
        )
        sample: dict[str, Any] = {"image": F.to_image(picture), "boxes": corners, "labels": torch.from_numpy(rows)}
        if mask is not None:
            sample["mask"] = tv_tensors.Mask(torch.from_numpy(mask)[None])
        if self.crop is not None or self.more is not None:
            seed_everything(*key)
            sample = self._augmented(sample)
        height, width = sample["image"].shape[-2:]
        side = max(height, width)
        square = F.pad(sample["image"], [0, 0, side - width, side - height], fill=list(self.fill))
        pixels: Tensor = F.resize(square, [self.size, self.size], antialias=True).as_subclass(Tensor)
        placed = torch.full(boxes.shape, torch.nan if np.isnan(boxes).any() else -1.0)
        left = sample["labels"]  # rows of the remaining boxes
        placed[left, 0] = torch.from_numpy(boxes[left.numpy(), 0])
        placed[left, 1:] = sample["boxes"].as_subclass(Tensor) / side
        if mask is None:
            return pixels, placed, None
        filled = F.pad(sample["mask"], [0, 0, side - width, side - height], fill=VOID)
        nearest = F.resize(filled, [self.size, self.size], interpolation=F.InterpolationMode.NEAREST_EXACT)
        return pixels, placed, nearest.as_subclass(Tensor)[0].float()

    def _augmented(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.crop is not None and min(sample["image"].shape[-2:]) >= LEAST_CROPPED:
            sample = self.crop(sample)
        if self.more is not None:
            sample = self.more(sample)
        mask = {name: sample.pop(name) for name in ("mask",) if name in sample}  # or it would be filtered like boxes
        kept: dict[str, Any] = v2.SanitizeBoundingBoxes(min_size=LEAST_BOX)(sample)
        return kept | mask


def hide_unknown(picture: Image.Image, boxes: np.ndarray, fill: tuple[float, ...]) -> Image.Image:
    """Return a picture in which boxes without a class are filled with a colour, except where they overlap others.

    Otherwise a detector would learn that their content is background.

    Args:
        picture: the picture.
        boxes: its boxes, float32 [M, 5], in shares of its longer side.
        fill: the colour, from 0 to 255.
    """
    unknown = (boxes[:, 0] < 0) & (boxes[:, 3] > boxes[:, 1])
    if not unknown.any():
        return picture
    hidden, longer = picture.copy(), max(picture.size)
    pixels = [tuple(map(round, corners)) for corners in (boxes[unknown, 1:] * longer).tolist()]
    for corners in pixels:
        hidden.paste(tuple(map(round, fill)), corners)
    for corners in (boxes[boxes[:, 0] >= 0, 1:] * longer).round().astype(int).tolist():
        hidden.paste(picture.crop(corners), corners[:2])
    return hidden


class BoxInputs(ImageInputs):
    """Views of images whose boxes follow the augmentation."""

    _view: BoxView

    def batch(self, keys: Sequence[Key], labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs uint8 [B, 3, S, S] and the boxes in them, float32 [B, M, 5]."""
        pairs = [self._pair(*key, boxes) for key, boxes in zip(keys, labels, strict=True)]
        inputs, boxes = zip(*pairs, strict=True)
        return torch.stack(inputs), torch.stack(boxes)

    def _pair(self, draw: int, position: int, boxes: np.ndarray) -> tuple[Tensor, Tensor]:
        image = self._images.encoded(int(self._rows[position]))
        return self._view.with_boxes(image, (self._seed, draw, position), boxes)


class BoxSource(InputSource):
    """A detector together with its inputs."""

    inputs: ClassVar[type[ImageInputs]] = BoxInputs

    def training(self, rows: np.ndarray, seed: int) -> ImageInputs:
        """Return augmented inputs of the images at some table positions [N]."""
        view = augmented_view(self.recipe, self.config, masks=self.images.has_masks)
        return self.inputs(self.images, rows, view, seed)

    def evaluation(self, rows: np.ndarray, name: str) -> ImageInputs:
        """Return inputs of the images at some table positions [N], resized alone."""
        return self.inputs(self.images, rows, plain_view(self.config))


def plain_view(config: dict[str, Any]) -> BoxView:
    """Return padding and resizing alone, for a `preprocessing`."""
    return BoxView(config["input_size"][-1], tuple(float(round(255 * value)) for value in config["mean"]))


def augmented_view(recipe: Recipe, config: dict[str, Any], *, masks: bool = False) -> BoxView:
    """Return the recipe's augmentation of pictures with boxes: crop, flip, and change of colours.

    Args:
        recipe: the settings.
        config: a `preprocessing`.
        masks: whether the pictures have masks, so that a crop need not leave any object whole.
    """
    plain, (low, high), jitter = plain_view(config), recipe.crop_scale, recipe.color_jitter
    crop: v2.Transform = v2.RandomIoUCrop(min_scale=math.sqrt(low), max_scale=math.sqrt(high))
    if masks:
        crop = v2.RandomResizedCrop(plain.size, (low, high))
    more: list[v2.Transform] = [v2.RandomHorizontalFlip(recipe.flip)] if recipe.flip else []
    more += [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    return BoxView(plain.size, plain.fill, crop if low < 1 else None, v2.Compose(more) if more else None)


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
