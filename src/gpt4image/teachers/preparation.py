"""How images are prepared for a teacher: as for its own evaluation, or as random views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gpt4image.train.transforms import Transform, draw_box, evaluation_transform

CROP_SCALE = (0.35, 1.0)  # smallest and largest share of the image's area that a random view keeps
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}  # by the names that model configurations use; bicubic for any other
TIMM_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Preparation:
    """A teacher's preparation of images. Picklable, since data loader workers receive it.

    Attributes:
        plain: prepares an image as the teacher's own evaluation does, to a tensor [3, H, W].
        size: height and width in pixels of the teacher's input.
        mean: mean of each colour channel, which is subtracted.
        std: standard deviation of each colour channel, by which it is divided.
        interpolation: filter that resizes random views.
        settings: text that identifies all of these; equal texts mean equal tensors.
    """

    plain: Transform
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    settings: str

    @classmethod
    def of(cls, plain: Transform, size: tuple[int, int], config: Mapping[str, Any]) -> Preparation:
        """Build a preparation from the `mean`, `std` and `interpolation` of a model's configuration."""
        settings = repr(sorted((key, str(value)) for key, value in config.items()))
        return cls(plain, size, tuple(config["mean"]), tuple(config["std"]), config["interpolation"], settings)

    def view(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """Draw a random resized crop, flipped half of the time, normalised (Szegedy et al., arXiv 1409.4842).

        Returns:
            float32 [3, H, W].
        """
        box = draw_box(image.width, image.height, CROP_SCALE, generator)
        cropped = image.resize(self.size[::-1], FILTERS.get(self.interpolation, FILTERS["bicubic"]), box=box)
        if generator.random() < 0.5:
            cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        colours = np.asarray(cropped, dtype=np.float32) / 255  # [H, W, 3]
        normal = (colours - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


def timm_preparation(config: Mapping[str, Any]) -> Preparation:
    """Build the preparation of a timm model from its data configuration, which has the `TIMM_KEYS`."""
    return Preparation.of(evaluation_transform(dict(config)), tuple(config["input_size"][1:]), config)
