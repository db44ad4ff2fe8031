"""How a model is trained: every setting that changes the result, in one place. Imports nothing heavy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from gpt4image.errors import ConfigError
from gpt4image.seams import unknown_name


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Both arms of a comparison share one recipe."""

    backbone: str = "resnet50"
    """Any timm model name, such as convnext_tiny, vit_small_patch16_224 or mobilenetv3_large_100."""
    pretrained: bool = True
    """Start from timm's pretrained weights (fetched from the hub); --no-pretrained starts from scratch."""
    checkpoint: str | None = None
    """Start from this weights file (.safetensors, .pth) instead. A classifier that does not fit is left out."""
    image_size: int = 224
    """Height and width in pixels of the images the model sees."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images per optimiser step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts a batch is split into to save memory. The contrastive losses see one part at a time."""
    optimizer: str = "adamw"
    """Any optimiser that timm knows: adamw, sgd, lamb, lion..."""
    lr: float = 5e-4
    """Highest learning rate."""
    min_lr: float = 1e-6
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: float = 0.05
    """Weight decay, not applied to biases and normalisation layers."""
    momentum: float = 0.9
    """Momentum, for optimisers that have one."""
    clip_grad: float | None = 1.0
    """Largest gradient norm; None does not clip."""
    label_smoothing: float = 0.1
    """Share of the label spread evenly over all classes."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Smallest and largest share of the image's area that a random crop keeps."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation changes."""
    auto_augment: str | None = None
    """Policy of timm, such as rand-m9-mstd0.5-inc1."""
    random_erase: float = 0.0
    """Probability of erasing a random rectangle."""
    mixup: float = 0.0
    """Alpha of mixup; texts are mixed with the same partners and shares."""
    cutmix: float = 0.0
    """Alpha of cutmix; likewise."""
    mix_probability: float = 1.0
    """Share of the batches that are mixed when mixup or cutmix is on."""
    drop_path: float = 0.0
    """Stochastic depth rate, for backbones that have it."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights; when set, the average is validated and kept."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    freeze: tuple[str, ...] = ()
    """Modules of the backbone that stay as they are, such as conv_stem bn1 blocks.0 blocks.1."""
    cached_views: int = 0
    """With frozen early modules: compute their output once for this many augmented views of each image, in place of
    running them at every step. 0 does not cache."""
    texts: Literal["random", "mean"] = "random"
    """Of several descriptions of an image: one drawn at random in each epoch, or the mean of their vectors."""
    loss: Literal["clip", "infonce", "cosine"] = "clip"
    """Alignment loss: InfoNCE both ways, from image to text only, or the distance of unit vectors."""
    weight: float = 0.3
    """Weight of the alignment loss beside the cross-entropy."""
    temperature: float = 0.2
    """Temperature of the contrastive losses."""
    projector: Literal["mlp-bn", "mlp"] = "mlp-bn"
    """Projector with batch normalisation (the reference's for ResNet-50) or without (its for DeiT-B)."""
    projector_hidden: int | None = None
    """Width between the projector's layers; twice the text vectors' when not given."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "image_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("lr", "temperature"):
            require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        for name in ("min_lr", "warmup_epochs", "weight_decay", "mixup", "cutmix", "weight", "cached_views"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, but is {getattr(self, name)}.")
        for name in ("label_smoothing", "flip", "random_erase", "mix_probability", "drop_path", "momentum"):
            require(0 <= getattr(self, name) <= 1, f"{name} must lie between 0 and 1, not {getattr(self, name)}.")
        require(self.clip_grad is None or self.clip_grad > 0, f"clip_grad must be above 0, not {self.clip_grad}.")
        require(
            self.batch_size // self.accumulate > 1,
            f"batch_size {self.batch_size} in accumulate = {self.accumulate} parts leaves single images, which batch "
            "normalisation and the contrastive losses cannot learn from.",
        )
        low, high = self.crop_scale
        require(0 < low <= high <= 1, f"crop_scale must be two rising shares of 1, not {low} {high}.")
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"ema_decay must lie between 0 and 1, not {self.ema_decay}.",
        )
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size {self.batch_size} cannot be split into accumulate = {self.accumulate} equal parts.",
        )
        require(
            self.batch_size // self.accumulate % 2 == 0 or not self.mixes,
            "mixup and cutmix pair the images of a batch: its part of "
            f"{self.batch_size // self.accumulate} must be even.",
        )
        require(
            not self.cached_views or bool(self.freeze),
            "cached_views stores the output of frozen modules: name them with freeze, or set cached_views to 0.",
        )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """Build a recipe from plain values. ConfigError names an unknown key and the source it stands in."""
        return recipe_from(cls(), values, source)

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe from a TOML file; fields that are not in it keep their defaults."""
        return recipe_from(cls(), read_toml(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; tuples as lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def require(condition: bool, message: str) -> None:
    """ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def read_toml(path: Path) -> dict[str, Any]:
    """Values of a TOML file. ConfigError names the file when it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def recipe_from(base: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe with some fields of another replaced.

    Raises:
        ConfigError: a key that no field has, or a value of the wrong type; the message names key and source.
    """
    types = get_type_hints(Recipe)
    for key in values:
        require(key in types, f"{source}: {unknown_name('recipe setting', key, list(types))}")
    return replace(base, **{key: typed(types[key], value, f"{source}: {key}") for key, value in values.items()})


def typed(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - any field's type and value
    """The value as the type, lists for tuples, nothing else converted. ConfigError says where it does not fit."""
    from pydantic import TypeAdapter, ValidationError

    plain = tuple(value) if isinstance(value, list) else value
    try:
        return TypeAdapter(kind).validate_python(plain, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where} = {value!r} does not fit: {error.errors()[0]['msg'].lower()}.") from None
