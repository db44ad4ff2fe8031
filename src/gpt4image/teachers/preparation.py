"""How a teacher wants pictures prepared: as its evaluation sees them, or as random views."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gpt4image.train.transforms import Transform, evaluation_transform

CROP_SCALE = (0.35, 1.0)


"""Smallest and largest share of a picture's area that a random view keeps."""


CROP_RATIO = 4 / 3


"""Largest ratio of its longer side to the shorter."""


CROP_TRIES = 10


FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


"""Pillow's filters by the names that model configurations use; bicubic for any other."""


Box = tuple[float, float, float, float]


"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Preparation:
    """A teacher's preparation of pictures. Picklable: loader processes carry it.

    Attributes:
        plain: a picture as the teacher's own evaluation prepares it, to a tensor [3, H, W].
        size: height and width in pixels that the teacher sees.
        mean: of each colour, taken off.
        std: of each colour, divided by.
        interpolation: filter that views are resized with.
        settings: all of this in words; the same words, the same tensors.
    """

    plain: Transform
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    settings: str

    def view(self, picture: Image.Image, chance: np.random.Generator) -> Tensor:
        """A random resized crop, flipped half of the time, normalised [3, H, W] (Szegedy et al., arXiv 1409.4842)."""
        box = draw_box(picture.width, picture.height, chance)
        cropped = picture.resize(self.size[::-1], FILTERS.get(self.interpolation, FILTERS["bicubic"]), box=box)
        if chance.random() < 0.5:
            cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        colours = np.asarray(cropped, dtype=np.float32) / 255
        normal = (colours - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


def draw_box(width: int, height: int, chance: np.random.Generator) -> Box:
    """Draw the part of a picture that a random view shows; the largest square in its middle where none fits.

    >>> draw_box(100, 1, np.random.default_rng(0))
    (49.5, 0.0, 50.5, 1.0)
    """
    for _ in range(CROP_TRIES):
        area = width * height * chance.uniform(*CROP_SCALE)
        ratio = CROP_RATIO ** chance.uniform(-1, 1)
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = chance.uniform(0, width - across), chance.uniform(0, height - down)
            return left, top, left + across, top + down
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def timm_preparation(config: Mapping[str, Any]) -> Preparation:
    """Preparation of a timm model.

    Args:
        config: `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them.
    """
    return Preparation(
        plain=evaluation_transform(dict(config)),
        size=tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        settings=repr(sorted((key, str(value)) for key, value in config.items())),
    )


def timm_config(model: nn.Module, image_size: int | None) -> dict[str, Any]:
    """How images are prepared for a timm model: as it was pretrained, or for another height and width."""
    from timm.data import resolve_model_data_config

    wanted = {} if image_size is None else {"input_size": (3, image_size, image_size)}
    config = resolve_model_data_config(model, args=wanted)
    return {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")}
