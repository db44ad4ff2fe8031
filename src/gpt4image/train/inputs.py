"""From images to what the trained part of a backbone is fed: pictures, or the stored output of its frozen stem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt4image.core.files import digest
from gpt4image.embed.encoders import hash_weights
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import evaluation_transform, preprocessing, training_transform
from gpt4image.train.data import ImageInputs, Inputs
from gpt4image.train.frozen import FeatureCache, freeze, frozen_modules, split_model
from gpt4image.train.recipe import Recipe

AUGMENTATION = ("crop_scale", "flip", "color_jitter", "auto_augment", "random_erase", "image_size")


@dataclass(frozen=True)
class InputSource:
    """A backbone made ready for its inputs.

    Attributes:
        trained: the part of the backbone that training runs: all of it, or what follows the frozen stem.
        images: where the pictures come from.
        recipe: image size and augmentation.
        config: preprocessing of the backbone.
        cache: stores the stem's output; None where pictures are fed.
    """

    trained: nn.Module
    images: ImageTable
    recipe: Recipe
    config: dict[str, Any]
    cache: FeatureCache | None

    def training(self, rows: np.ndarray, seed: int) -> Inputs:
        """Augmented inputs of some images. Stored views are the same for every seed."""
        transform = training_transform(self.recipe, self.config)
        if self.cache is None:
            return ImageInputs(self.images, rows, transform, seed)
        pictures = ImageInputs(self.images, rows, transform, seed=0)
        content = self._hash(rows)  # arms may train on different images
        return self.cache.store(f"train-{content[:8]}", pictures, self.recipe.cached_views, content)

    def evaluation(self, rows: np.ndarray, name: str) -> Inputs:
        """Inputs of some images, resized and cropped without chance."""
        pictures = ImageInputs(self.images, rows, evaluation_transform(self.config))
        return pictures if self.cache is None else self.cache.store(name, pictures, 1, self._hash(rows))

    def _hash(self, rows: np.ndarray) -> str:
        return digest(self.images.ids[rows].tobytes())


def prepare_inputs(
    backbone: nn.Module, images: ImageTable, recipe: Recipe, folder: Path, device: torch.device
) -> InputSource:
    """Freeze what the recipe freezes; where it caches, split the backbone and set up the store of the stem's output.

    Args:
        backbone: whole backbone, on the CPU.
        images: the images.
        recipe: what is frozen, how images are prepared.
        folder: where stored features lie.
        device: where they are computed.
    """
    config = preprocessing(backbone, recipe.image_size)
    freeze(frozen_modules(backbone, recipe.freeze))
    if not recipe.cached_views:
        return InputSource(backbone, images, recipe, config, None)
    sample = torch.linspace(-2, 2, 2 * 3 * recipe.image_size**2).view(2, 3, recipe.image_size, -1)
    stem, trained = split_model(backbone.eval(), recipe.freeze, sample)
    identity = stem_identity(backbone, recipe, config)
    stem.to(device)
    stem.to(memory_format=torch.channels_last)  # faster on a CPU: benchmarks/channels_last.py
    cache = FeatureCache(stem, folder / identity[:16], identity, device)
    return InputSource(trained, images, recipe, config, cache)


def stem_identity(backbone: nn.Module, recipe: Recipe, config: dict[str, Any]) -> str:
    """Hash of all that stored features depend on, images aside."""
    weights = {
        f"{name}.{key}": value
        for name, module in zip(recipe.freeze, frozen_modules(backbone, recipe.freeze), strict=True)
        for key, value in module.state_dict().items()
    }
    settings = {key: getattr(recipe, key) for key in AUGMENTATION}
    return digest(recipe.backbone, hash_weights(weights), repr(sorted(settings.items())), repr(sorted(config.items())))
