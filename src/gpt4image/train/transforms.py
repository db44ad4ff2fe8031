"""From encoded images to the inputs of a model: augmentation, evaluation, normalisation.

Random draws depend only on their key. Pixels stay 8-bit until they are on the model's device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.images.decode import EncodedImage
from gpt4image.images.table import ImageTable
from gpt4image.train.recipe import AUGMENTATION, Recipe

Transform = Callable[[Image.Image], Tensor]
View = Callable[[EncodedImage, tuple[int, ...]], Tensor]
"""Makes one input of an image, uint8 or normalised float32 [3, H, W]; random draws depend on the key alone."""

CROP_RATIO = 4 / 3  # largest ratio of a crop's longer side to the shorter
CROP_TRIES = 10
STRONG_STREAM = 1  # lengthens the keys of strong views, so that their draws differ from those of others

Box = tuple[float, float, float, float]


def seed_everything(*key: int) -> None:
    """Seed torch, numpy and random from the numbers of a key: the same key gives the same draws in any process."""
    state = np.random.SeedSequence([len(key), *key]).generate_state(3)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))
    random.seed(int(state[2]))


def preprocessing(backbone: nn.Module, image_size: int) -> dict[str, Any]:
    """Return the preprocessing of a timm backbone: input size, mean, std, interpolation and crop share."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(backbone, args={"input_size": (3, image_size, image_size)})
    return {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")}


@dataclass(frozen=True)
class Normalization:
    """Turns 8-bit pixels into the floats that a model expects, on their device.

    Attributes:
        mean: mean of each colour, which is subtracted.
        std: standard deviation of each colour, by which it is divided.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: dict[str, Any]) -> Normalization:
        """Return that of a `preprocessing`."""
        return cls(tuple(config["mean"]), tuple(config["std"]))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return uint8 pixels [B, 3, H, W] as float32; floats, normalised or cached features, stay as they are."""
        if inputs.is_floating_point():
            return inputs
        mean, std = self._columns(inputs)
        return inputs.to(torch.float32).sub_(255 * mean).div_(255 * std)

    def colours(self, normalized: Tensor) -> Tensor:
        """Return the colours, from 0 to 1, of normalised pixels [B, 3, H, W]."""
        mean, std = self._columns(normalized)
        return (normalized.float() * std + mean).clamp_(0, 1)

    def _columns(self, inputs: Tensor) -> list[Tensor]:
        return [inputs.new_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (self.mean, self.std)]


def evaluation_transform(config: dict[str, Any]) -> Transform:
    """Return resizing and centre cropping to a normalised tensor [3, H, W]."""
    from timm.data import create_transform

    return create_transform(**config, is_training=False)  # type: ignore[no-any-return]


def evaluated_view(config: dict[str, Any]) -> View:
    """Return resizing and centre cropping as `evaluation_transform` does, to 8-bit pixels [3, H, W]."""
    from timm.data import create_transform

    return WholeView(create_transform(**config, is_training=False, normalize=False))


def augmented_view(
    recipe: Recipe, config: dict[str, Any], version: int = AUGMENTATION, *, strong: bool = False
) -> View:
    """Return the recipe's augmentation.

    Args:
        config: preprocessing of the backbone.
        version: the version of this library's augmentation; 1 is timm's, on whole pictures.
        strong: the strong augmentation of FixMatch (Sohn et al., arXiv 2001.07685, section 2.3): after crop and flip,
            RandAugment, and Cutout, which makes a rectangle the mean colour.

    Raises:
        ConfigError: timm does not know the policy `auto_augment`.
    """
    from timm.data import create_transform
    from torchvision.transforms import Compose

    try:
        stages = create_transform(
            config["input_size"],
            is_training=True,
            scale=recipe.crop_scale,
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=recipe.strong_augment if strong else recipe.auto_augment,
            re_prob=1.0 if strong else recipe.random_erase,
            re_mode="const" if strong else "pixel",
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
            separate=True,
        )
    except (AssertionError, ValueError, IndexError) as error:
        name, policy = ("strong", recipe.strong_augment) if strong else ("auto", recipe.auto_augment)
        raise ConfigError(f"timm knows no {name}_augment policy {policy!r} ({error}).") from None
    if version == 1:
        return WholeView(Compose(stages), draws=True)
    _, colours, tensor = stages
    more = Compose([colours, tensor]) if colours.transforms or recipe.random_erase or strong else None
    size = config["input_size"][1:]
    return CroppedView(tuple(size), recipe.crop_scale, recipe.flip, config["interpolation"], more)


@dataclass(frozen=True)
class WholeView:
    """Transforms the whole picture.

    Attributes:
        draws: whether the transform draws random numbers.
    """

    transform: Transform
    draws: bool = False

    def __call__(self, image: EncodedImage, key: tuple[int, ...]) -> Tensor:
        """Return the transformed picture."""
        if self.draws:
            seed_everything(*key)
        return self.transform(image.decode())


@dataclass(frozen=True)
class StrongView:
    """A view whose random draws are not those of the other view of the same key.

    Attributes:
        view: the augmentation.
    """

    view: View

    def __call__(self, image: EncodedImage, key: tuple[int, ...]) -> Tensor:
        """Return the augmented picture, float32 [3, H, W]."""
        return self.view(image, (*key, STRONG_STREAM))


@dataclass(frozen=True)
class CroppedView:
    """Draws a crop and a flip, and decodes and resizes no more than the crop (Szegedy et al., arXiv 1409.4842).

    Attributes:
        size: height and width of the result in pixels.
        scale: smallest and largest share of the picture's area that a crop keeps.
        flip: probability of a horizontal flip.
        interpolation: filter that resizes.
        more: further random transforms of the resized picture, to a normalised tensor.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    flip: float
    interpolation: str
    more: Transform | None = None

    def __call__(self, image: EncodedImage, key: tuple[int, ...]) -> Tensor:
        """Return uint8 pixels [3, H, W], or what the further transforms make of them."""
        generator = np.random.default_rng(key)
        left, top, right, bottom = draw_box(*image.size, self.scale, generator)
        whole = int(left), int(top), math.ceil(right), math.ceil(bottom)
        pixels = resize(image.region(whole, at_least=self.size[::-1]), self.size, self.interpolation)
        if generator.random() < self.flip:
            pixels = pixels.flip(-1)
        if self.more is None:
            return pixels
        seed_everything(*key)
        return self.more(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


def draw_box(width: int, height: int, scale: tuple[float, float], generator: np.random.Generator) -> Box:
    """Draw a crop: left, top, right and bottom in pixels. If none fits, it is the largest square in the middle.

    Args:
        scale: smallest and largest share of the area that it keeps.

    >>> draw_box(100, 1, (0.35, 1.0), np.random.default_rng(0))
    (49.5, 0.0, 50.5, 1.0)
    """
    for _ in range(CROP_TRIES):
        area = width * height * generator.uniform(*scale)
        ratio = CROP_RATIO ** generator.uniform(-1, 1)
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = generator.uniform(0, width - across), generator.uniform(0, height - down)
            return left, top, left + across, top + down
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def resize(picture: np.ndarray, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return a picture [h, w, 3] of another height and width as uint8 [3, H, W].

    torch's filters are integer arithmetic as Pillow's are, and several times as fast; Pillow has some that torch lacks.
    """
    if interpolation in ("bilinear", "bicubic"):
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        return F.interpolate(pixels[None], size, mode=interpolation, antialias=True)[0]
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling[interpolation.upper()])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def evaluation_input(images: ImageTable, row: int, transform: Transform) -> Tensor:
    """Return a transformed image [3, H, W], or the frames of a clip [T, 3, H, W]."""
    if images.frames is None:
        return transform(images.image(row))
    return torch.stack(images.over_frames(row, lambda frame: transform(frame.decode())))
