"""Image transforms, and random draws that depend on nothing but their key."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.train.recipe import Recipe

Transform = Callable[[Image.Image], Tensor]


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


def training_transform(recipe: Recipe, config: dict[str, Any]) -> Transform:
    """Return the recipe's augmentation, from an image to a normalised tensor [3, H, W].

    Raises:
        ConfigError: timm does not know the policy `auto_augment`.
    """
    from timm.data import create_transform

    try:
        transform: Transform = create_transform(
            config["input_size"],
            is_training=True,
            scale=recipe.crop_scale,
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=recipe.auto_augment,
            re_prob=recipe.random_erase,
            re_mode="pixel",
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
        )
    except (AssertionError, ValueError, IndexError) as error:
        raise ConfigError(f"timm knows no auto_augment policy {recipe.auto_augment!r} ({error}).") from None
    return transform


def evaluation_transform(config: dict[str, Any]) -> Transform:
    """Return resizing and centre cropping to a normalised tensor [3, H, W]."""
    from timm.data import create_transform

    return create_transform(**config, is_training=False)  # type: ignore[no-any-return]
