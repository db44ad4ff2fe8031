"""Image transforms of a recipe, and randomness that depends on nothing but seed, epoch and image."""

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
    """Seed torch, numpy and random with a mixture of the numbers: the same numbers, the same draws, in any process."""
    state = np.random.SeedSequence([len(key), *key]).generate_state(3)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))
    random.seed(int(state[2]))


def preprocessing(backbone: nn.Module, image_size: int) -> dict[str, Any]:
    """How images have to be prepared for a timm backbone: input size, mean, std, interpolation, crop share."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(backbone, args={"input_size": (3, image_size, image_size)})
    return {key: config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")}


def training_transform(recipe: Recipe, config: dict[str, Any]) -> Transform:
    """Random crop, flip and colour changes of a recipe, to a normalised tensor [3, H, W].

    Raises:
        ConfigError: `auto_augment` is no policy.
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
        raise ConfigError(f"auto_augment {recipe.auto_augment!r} is no policy that timm knows ({error}).") from None
    return transform


def evaluation_transform(config: dict[str, Any]) -> Transform:
    """Resize and centre crop to a normalised tensor [3, H, W]."""
    from timm.data import create_transform

    return create_transform(**config, is_training=False)  # type: ignore[no-any-return]
