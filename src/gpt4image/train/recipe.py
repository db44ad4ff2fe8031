"""How a model is trained: every setting that changes the result, in one place. Imports nothing heavy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name

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
    """Probability of erasing a random rectangle with noise."""
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
    repeats: int = 1
    """Repeated augmentation: so many differently augmented copies of an image in a row, and fewer images an epoch."""
    compile: bool = False
    """Compile the model with torch.compile: a slow start, then faster steps."""
    texts: Literal["random", "mean"] = "random"
    """Of several descriptions of an image: one drawn at random in each epoch, or the mean of their vectors."""
    text_space: Literal["raw", "centred", "whitened"] = "raw"
    """Text vectors as they are, without what all training texts have in common, or whitened as well."""
    text_adapter: bool = False
    """Train a light adapter on the text vectors too."""
    several_encoders: Literal["heads", "concatenated"] = "heads"
    """Of several text encoders: a projector and loss for each, or one for their vectors side by side."""
    loss: Literal["clip", "infonce", "cosine", "sigmoid", "relational"] = "clip"
    """Alignment loss: InfoNCE both ways, from image to text only, distance of unit vectors, SigLIP's, or images as like
    each other as their texts."""
    targets: Literal["identity", "same", "label", "similarity"] = "same"
    """Texts that fit an image: its own; those of its copies and the same words too; those of its class; or all, by how
    like its own they are."""
    target_temperature: float = 0.1
    """Temperature of that likeness, for targets `similarity` and the relational loss."""
    target_share: float = 0.5
    """Share of the `similarity` targets that goes by likeness."""
    temperature: float = 0.2
    """Temperature of the losses; the distance has none."""
    learn_temperature: bool = False
    """Start there, and learn it."""
    queue: int = 0
    """Texts of earlier batches kept as further negatives, for small batches."""
    weight: float = 0.3
    """Weight of the alignment loss beside the cross-entropy; 0 does without it."""
    weight_schedule: Literal["constant", "cosine"] = "constant"
    """Course of the weight after its warm-up: constant, or half a cosine down to 0."""
    weight_warmup_epochs: float = 0.0
    """Epochs over which the weight rises from 0."""
    align_until: float = 1.0
    """Share of the training after which the alignment ends."""
    balance: float | None = None
    """Scale the alignment's gradient at the shared feature to this share of the classifier's; None leaves it."""
    align_at: tuple[str, ...] = ()
    """Where to align: modules of the backbone, such as layer3; `features` is what the classifier reads, and where none
    is named. Several have a projector each."""
    align_pool: Literal["auto", "mean", "token", "channels-last"] = "auto"
    """How what such a module answers becomes one vector: mean over positions, the class token, or the mean where
    channels come last."""
    projector: Literal["mlp-bn", "mlp-ln", "mlp", "bottleneck", "linear"] = "mlp-bn"
    """Projector: two layers with batch normalisation (the reference's for ResNet-50), with layer normalisation, with
    none (its for DeiT-B), with a narrow middle, or one layer."""
    projector_hidden: int | None = None
    """Width between the projector's layers; twice the text vectors' when not given, a quarter for a bottleneck."""
    soft_labels: float = 0.0
    """Share of the labels that comes from a classifier on the descriptions (or a teacher), cross-fitted."""
    soft_temperature: float | None = None
    """Temperature of these labels; the one that fits held-out labels best when not given."""
    soft_from: float = 0.0
    """Share of the training from which on they are mixed in."""
    soft_until: float = 1.0
    """Share of the training after which they are not."""
    unlabelled: Literal["skip", "align"] = "skip"
    """Training images with a description and no label: leave them out, or train on their alignment."""

    def __post_init__(self) -> None:
        check_recipe(self)

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
    """The value as the type, lists for tuples, "none" for no value (TOML has no word for it), nothing else converted.

    Raises:
        ConfigError: it does not fit; the message says where.
    """
    from pydantic import TypeAdapter, ValidationError

    plain = tuple(value) if isinstance(value, list) else value
    if plain == "none" and type(None) in get_args(kind):
        return None
    try:
        return TypeAdapter(kind).validate_python(plain, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where} = {value!r} does not fit: {error.errors()[0]['msg'].lower()}.") from None
