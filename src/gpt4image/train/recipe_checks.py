"""What a recipe must not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt4image.errors import ConfigError

if TYPE_CHECKING:
    from gpt4image.train.recipe import Recipe

AT_LEAST_ONE = ("epochs", "batch_size", "accumulate", "image_size", "repeats")
ABOVE_ZERO = ("lr", "temperature", "target_temperature")
NOT_NEGATIVE = (
    "min_lr", "warmup_epochs", "weight_decay", "mixup", "cutmix", "weight", "weight_warmup_epochs", "cached_views",
    "queue",
)  # fmt: skip
SHARES = (
    "label_smoothing", "flip", "random_erase", "mix_probability", "drop_path", "momentum", "target_share",
    "align_until", "soft_labels", "soft_from", "soft_until",
)  # fmt: skip
POSITIVE_OR_NONE = ("clip_grad", "balance", "soft_temperature", "projector_hidden")
QUEUE_LOSSES = ("clip", "infonce", "sigmoid")


def require(condition: bool, message: str) -> None:
    """ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_recipe(recipe: Recipe) -> None:
    """ConfigError for a value out of range, or settings that do not fit together."""
    for name in AT_LEAST_ONE:
        require(getattr(recipe, name) >= 1, f"{name} must be at least 1, not {getattr(recipe, name)}.")
    for name in ABOVE_ZERO:
        require(getattr(recipe, name) > 0, f"{name} must be above 0, not {getattr(recipe, name)}.")
    for name in NOT_NEGATIVE:
        require(getattr(recipe, name) >= 0, f"{name} must not be negative, but is {getattr(recipe, name)}.")
    for name in SHARES:
        require(0 <= getattr(recipe, name) <= 1, f"{name} must lie between 0 and 1, not {getattr(recipe, name)}.")
    for name in POSITIVE_OR_NONE:
        value = getattr(recipe, name)
        require(value is None or value > 0, f"{name} must be above 0, not {value}.")
    low, high = recipe.crop_scale
    require(0 < low <= high <= 1, f"crop_scale must be two rising shares of 1, not {low} {high}.")
    decay = recipe.ema_decay
    require(decay is None or 0 < decay < 1, f"ema_decay must lie between 0 and 1, not {decay}.")
    check_batches(recipe)
    check_alignment(recipe)


def check_batches(recipe: Recipe) -> None:
    """ConfigError where batches cannot be made as the recipe says."""
    part = recipe.batch_size // recipe.accumulate
    require(
        part > 1,
        f"batch_size {recipe.batch_size} in accumulate = {recipe.accumulate} parts leaves single images, which batch "
        "normalisation and the contrastive losses cannot learn from.",
    )
    require(
        recipe.batch_size % recipe.accumulate == 0,
        f"batch_size {recipe.batch_size} cannot be split into accumulate = {recipe.accumulate} equal parts.",
    )
    require(
        part % 2 == 0 or not recipe.mixes,
        f"mixup and cutmix pair the images of a batch: its part of {part} must be even.",
    )
    require(
        not recipe.cached_views or bool(recipe.freeze),
        "cached_views stores the output of frozen modules: name them with freeze, or set cached_views to 0.",
    )


def check_alignment(recipe: Recipe) -> None:
    """ConfigError for settings of the alignment that do not fit together."""
    require(
        not recipe.learn_temperature or recipe.loss != "cosine",
        "The loss cosine has no temperature to learn: leave --learn-temperature out.",
    )
    require(
        not recipe.queue or recipe.loss in QUEUE_LOSSES,
        f"The loss {recipe.loss} compares no image with other texts: leave --queue out, or take "
        f"{', '.join(QUEUE_LOSSES)}.",
    )
    require(
        not recipe.text_adapter or recipe.loss in QUEUE_LOSSES,
        f"A text adapter under the loss {recipe.loss} learns to make all texts one: take {', '.join(QUEUE_LOSSES)}.",
    )
    require(
        not (recipe.queue and recipe.text_adapter),
        "A queue keeps texts, and a text adapter changes them as it learns: take one of the two.",
    )
    require(
        recipe.soft_from <= recipe.soft_until,
        f"soft_from {recipe.soft_from} must not lie after soft_until {recipe.soft_until}.",
    )
    require(
        len(set(recipe.align_at)) == len(recipe.align_at),
        f"align_at names a module twice: {', '.join(recipe.align_at)}.",
    )
