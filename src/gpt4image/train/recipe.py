"""Training recipes: every setting that changes the result of a run.

The fields are grouped by feature in base classes. Their docstrings are the help texts of the command line, and their
annotations hold their constraints. This module imports nothing heavy.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from annotated_types import Interval

from gpt4image.align.losses import LOSSES, find_loss
from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import unknown_name
from gpt4image.core.validation import Count, NotNegative, Positive, Share, Whole, check_fields, check_value, field_types
from gpt4image.tasks.settings import LabelSettings


@dataclass(frozen=True)
class ModelSettings:
    """Model and initial weights."""

    backbone: str = "resnet50"
    """Name of any timm model, such as convnext_tiny, vit_small_patch16_224 or mobilenetv3_large_100; or
    hf-hub:OWNER/NAME or local-dir:FOLDER, a model in timm's format. Detection: DETECTOR:NAME with faster-rcnn (the
    default), retinanet, fcos, ssdlite, detr or rt-detr, such as ssdlite:NAME. Segmentation: HEAD:NAME with deeplabv3
    (the default), fcn, lraspp or segformer. Clips: also video:NAME."""
    pretrained: bool = True
    """Start from pretrained weights, which are downloaded. --no-pretrained trains from scratch."""
    checkpoint: str | None = None
    """Start from this weights file instead (.safetensors, .pth or .ckpt, from any training code). Prefixes of wrappers
    are removed, and a classifier of another size is skipped. Whole detectors load too, such as torchvision's."""
    image_size: Count = 224
    """Height and width of the model's input in pixels."""
    drop_path: Share = 0.0
    """Stochastic depth rate, for backbones that support it."""
    freeze: tuple[str, ...] = ()
    """Modules of the backbone to freeze, such as conv_stem bn1 blocks.0 blocks.1."""
    frame_pooling: Literal["mean", "attention"] = "mean"
    """For clips: how the features of the frames are combined, by their mean or weighted by attention."""
    lora: Whole = 0
    """Train low-rank adapters (LoRA) of this rank instead of the pretrained weights; new layers are still trained in
    full. The adapters are merged into the weights at the end, so the model stays as fast as it was. 0 trains all
    weights."""
    cached_views: Whole = 0
    """Compute the output of frozen early modules once, for this many augmented views of each image, instead of at
    every step. 0 disables the cache."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Optimiser, schedule, regularisation and precision."""

    epochs: Count = 20
    """Passes over the training images."""
    batch_size: Count = 64
    """Images per optimiser step, summed over all processes and accumulation steps."""
    labelled_share: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Smallest share of labelled images in each batch, if there are unlabelled training images. An epoch then has as
    many steps as the whole training set takes, in every arm."""
    keep: Literal["best", "last"] = "best"
    """Keep the weights of the epoch with the best validation accuracy, or of the last epoch. Use last if there are too
    few validation labels to tell epochs apart."""
    accumulate: Count = 1
    """Split each batch into this many parts and accumulate their gradients, to save memory. Contrastive losses compare
    images and texts within one part only."""
    optimizer: str = "adamw"
    """Name of any timm optimiser, such as adamw, sgd, lamb, lion, or bnbadamw8bit with 8-bit states."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    min_lr: NotNegative = 1e-6
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate schedule after the warm-up."""
    warmup_epochs: NotNegative = 1.0
    """Epochs of linear learning rate warm-up."""
    weight_decay: NotNegative = 0.05
    """Weight decay; biases and normalisation layers are exempt."""
    momentum: Share = 0.9
    """Momentum, for optimisers that use it."""
    clip_grad: Positive | None = 1.0
    """Maximum gradient norm; None disables clipping."""
    label_smoothing: Share = 0.1
    """Label smoothing: the share of each label that is spread evenly over all classes."""
    ema_decay: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights. If set, the average is validated and saved."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision. auto: bf16 on a GPU that supports it, otherwise no."""
    grad_checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them, which saves memory but makes
    steps slower. Batch normalisation then counts each batch twice in its running statistics."""
    compile: bool = False
    """Compile the model with torch.compile, for a slower start and faster steps."""


@dataclass(frozen=True)
class AugmentationSettings:
    """Augmentation of the training images."""

    crop_scale: tuple[Annotated[float, Interval(gt=0, le=1)], Annotated[float, Interval(gt=0, le=1)]] = (0.35, 1.0)
    """Smallest and largest share of the image area that a random crop keeps."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation changes."""
    auto_augment: str | None = None
    """Automatic augmentation policy in timm's notation, such as rand-m9-mstd0.5-inc1."""
    random_erase: Share = 0.0
    """Probability of erasing a random rectangle with noise."""
    mixup: NotNegative = 0.0
    """Mixup alpha. Texts are mixed in the same proportions as their images."""
    cutmix: NotNegative = 0.0
    """CutMix alpha. Texts are mixed in the same proportions as their images."""
    mix_probability: Share = 1.0
    """Probability of mixing a batch when mixup or CutMix is on."""
    repeats: Count = 1
    """Repeated augmentation: show this many augmented copies of each image in a row, and correspondingly fewer images
    per epoch."""


@dataclass(frozen=True)
class TextSettings:
    """Text vectors."""

    texts: Literal["random", "mean"] = "random"
    """If an image has several descriptions: draw one at random in each epoch, or average their vectors."""
    text_space: Literal["raw", "centred", "whitened"] = "raw"
    """Use text vectors as they are, subtract the mean of all training texts, or whiten them as well."""
    text_adapter: bool = False
    """Train a small adapter on top of the text vectors."""
    several_encoders: Literal["heads", "concatenated"] = "heads"
    """With several text encoders: use one projector and loss for each, or one for their concatenated vectors."""
    unlabelled: Annotated[Literal["skip", "align"], tyro.conf.arg(name="train-unlabelled")] = "align"
    """For training images without a label: use their alignment and soft labels if they have any, or skip the images."""


@dataclass(frozen=True)
class AlignmentSettings:
    """Alignment loss."""

    loss: Annotated[str, LOSSES] = "clip"
    """Alignment loss: clip (symmetric InfoNCE, as in CLIP), infonce (from image to text only), cosine (distance of unit
    vectors), sigmoid (as in SigLIP), dot (as in TextTeacher), relational (match the similarities among images to those
    among their texts), anchored (for the arm class-anchored), or a loss that an installed package registers."""
    targets: Literal["identity", "same", "label", "similarity"] = "same"
    """Which texts count as positives for an image. identity: only its own; same: also those of its copies, and
    identical texts; label: all texts of its class; similarity: every text, in proportion to its similarity to the
    image's own."""
    target_temperature: Positive = 0.1
    """Temperature of the similarities between texts, for `similarity` targets and the relational loss."""
    target_share: Share = 0.5
    """Share of the `similarity` targets that follows the similarities."""
    temperature: Positive = 0.2
    """Temperature of the loss; the cosine loss has none."""
    learn_temperature: bool = False
    """Learn the temperature, starting from the given one."""
    queue: Whole = 0
    """Number of texts from earlier batches to keep as additional negatives; useful for small batches."""
    weight: NotNegative = 0.3
    """Weight of the alignment loss relative to the cross-entropy; 0 disables the alignment."""
    weight_schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the weight after its warm-up: constant, or cosine decay to 0."""
    weight_warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up of the weight."""
    shared_head: NotNegative = 0.0
    """Weight of an additional label loss: that of the model's own classifier on the projected text (shared head, as in
    GVRT)."""
    align_until: Share = 1.0
    """Share of the training after which the alignment stops."""
    balance: Positive | None = None
    """Rescale the alignment's gradient at the shared feature to this multiple of the norm of the classifier's gradient.
    None leaves it unchanged."""
    align_at: tuple[str, ...] = ()
    """Modules of the backbone at which to align, such as layer3, each with its own projector. The default, `features`,
    is the input of the classifier."""
    align_pool: Literal["auto", "mean", "token", "channels-last"] = "auto"
    """How to pool the output of these modules into one vector. mean: over positions; token: the class token;
    channels-last: the mean over positions, with the channels in the last dimension; auto: as timm declares for the
    backbone."""
    projector: Literal["mlp-bn", "mlp-ln", "mlp", "bottleneck", "linear"] = "mlp-bn"
    """Projector. mlp-bn: two layers with batch normalisation (as in the paper for ResNet-50); mlp-ln: with layer
    normalisation; mlp: without normalisation (as in the paper for DeiT-B); bottleneck: with a narrow hidden layer;
    linear: a single layer."""
    projector_hidden: Count | None = None
    """Hidden width of the projector. Default: twice the width of the text vectors; for `bottleneck`, a quarter of the
    width of the features or of the text vectors, whichever is smaller."""


@dataclass(frozen=True)
class SoftLabelSettings:
    """Soft labels."""

    soft_labels: Share = 0.0
    """Share of each label that comes from a cross-fitted classifier on the descriptions, or from a teacher."""
    soft_temperature: Positive | None = None
    """Temperature of the soft labels. Default: the one that fits held-out labels best."""
    soft_from: Share = 0.0
    """Share of the training after which soft labels are mixed in."""
    soft_until: Share = 1.0
    """Share of the training after which soft labels are no longer mixed in."""


AUGMENTATION = 2  # version of how this library applies `AugmentationSettings`; a run keeps the one it began with
GUIDANCE_SETTINGS = (TextSettings, AlignmentSettings, SoftLabelSettings)  # no effect in an arm without descriptions


# dataclasses collect the fields of their bases from last to first
@dataclass(frozen=True)
class Recipe(
    LabelSettings,
    SoftLabelSettings,
    AlignmentSettings,
    TextSettings,
    AugmentationSettings,
    OptimizationSettings,
    ModelSettings,
):
    """Settings of a training run, shared by all arms of a comparison.

    Raises:
        ConfigError: a setting is invalid, or two settings exclude each other.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_batches()
        self._check_alignment()

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def pretraining_epochs(self) -> int:
        """Epochs in which the model trains without labels, rounded up."""
        return math.ceil(self.labels_from * self.epochs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """Build a recipe from plain values, see `override`."""
        return cls().override(values, source)

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a recipe from a TOML file; fields missing from the file keep their defaults."""
        return cls().override(read_toml(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with tuples as lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def shareable(self) -> Recipe:
        """Return a copy without names of local folders."""
        checkpoint = self.checkpoint and Path(self.checkpoint).name
        return replace(self, backbone=public_name(self.backbone), checkpoint=checkpoint)

    def lines(self) -> list[str]:
        """Return the settings that differ from the defaults, as lines of a `--config` file."""
        default = Recipe().to_dict()
        changed = {key: value for key, value in self.to_dict().items() if value != default[key]}
        return [f"{key} = {json.dumps('none' if value is None else value)}" for key, value in changed.items()]

    def override(self, values: Mapping[str, Any], source: str) -> Recipe:
        """Return a copy with some fields replaced. The text "none" stands for None, which TOML lacks.

        Args:
            values: the new values by field name.
            source: where they come from, for messages.

        Raises:
            ConfigError: an unknown field or an invalid value; the message names source and field.
        """
        types = field_types(Recipe)
        changes: dict[str, Any] = {}
        for key, value in values.items():
            if key not in types:
                raise ConfigError(f"{source}: {unknown_name('recipe setting', key, list(types))}")
            no_value = value == "none" and type(None) in get_args(types[key])
            changes[key] = None if no_value else check_value(types[key], value, f"{source}: {key}")
        return replace(self, **changes)

    def _check_batches(self) -> None:
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ConfigError(f"crop_scale (--crop-scale) should be two increasing shares, not {self.crop_scale}.")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"batch_size (--batch-size) {self.batch_size} cannot be split into {self.accumulate} equal parts, as "
                "accumulate (--accumulate) says."
            )
        part = self.batch_size // self.accumulate
        if part == 1:
            raise ConfigError(
                f"batch_size (--batch-size) {self.batch_size} in {self.accumulate} parts (--accumulate) leaves single "
                "images, from which batch normalisation and contrastive losses cannot learn. Use larger parts."
            )
        if self.mixes and part % 2:
            raise ConfigError(f"mixup and cutmix pair the images of a part of the batch: its size {part} must be even.")
        if self.cached_views and not self.freeze:
            raise ConfigError(
                "cached_views (--cached-views) stores the output of frozen modules: name them with freeze "
                "(--freeze), or set it to 0."
            )

    def _check_alignment(self) -> None:
        _, loss = find_loss(self.loss)
        contrastive = "use a contrastive loss such as clip"
        if self.learn_temperature and not loss.has_temperature:
            raise ConfigError(
                f"The {self.loss} loss has no temperature to learn: leave learn_temperature (--learn-temperature) off."
            )
        if self.queue and not loss.uses_queue:
            raise ConfigError(
                f"The {self.loss} loss has no negatives to queue: leave queue (--queue) at 0, or {contrastive}."
            )
        if self.text_adapter and loss.may_collapse:
            raise ConfigError(
                f"With the {self.loss} loss a text adapter would map all texts to one point: {contrastive}."
            )
        if self.queue and self.text_adapter:
            raise ConfigError(
                "queue (--queue) and text_adapter (--text-adapter) exclude each other: the adapter would change "
                "texts that are already in the queue."
            )
        if self.shared_head and not self.weight:
            raise ConfigError(
                "shared_head (--shared-head) needs the alignment with texts: set weight (--weight) above 0, or "
                "shared_head (--shared-head) to 0."
            )
        partnered = self.self_supervised != "none"
        if self.labels_from and (not (self.weight or partnered) or self.balance is not None):
            raise ConfigError(
                "Before labels_from (--labels-from) the alignment trains alone, without label gradients to balance "
                "it: set weight (--weight) above 0 and balance (--balance) to none, or labels_from (--labels-from) "
                "to 0."
            )
        if partnered and not self.labels_from:
            raise ConfigError(
                "self_supervised (--self-supervised) trains the model before the labels do: set labels_from "
                "(--labels-from) above 0, such as 0.5, or self_supervised (--self-supervised) to none."
            )
        if partnered and self.consistency:
            raise ConfigError(
                "self_supervised and consistency (the arm fixmatch) exclude each other, because each needs its own "
                "additional views: set self_supervised to none (--self-supervised none), or leave that arm out."
            )
        if partnered and self.cached_views == 1:
            raise ConfigError(
                "self_supervised (--self-supervised) compares two views of an image: set cached_views (--cached-views) "
                "to 2 or more, or to 0."
            )
        if self.soft_from > self.soft_until:
            raise ConfigError(
                f"soft_from (--soft-from) {self.soft_from} must not exceed soft_until (--soft-until) {self.soft_until}."
            )
        if len(set(self.align_at)) < len(self.align_at):
            raise ConfigError(f"align_at (--align-at) names a module twice: {', '.join(self.align_at)}.")


def public_name(name: str) -> str:
    """Return the name of a model without the folders of this machine.

    >>> public_name("local-dir:/home/me/model"), public_name("open-clip:RN50/openai")
    ('local-dir:model', 'open-clip:RN50/openai')
    """
    kind, colon, place = name.rpartition(":")
    return kind + colon + Path(place).name if kind == "local-dir" or Path(place).is_absolute() else name


def field_names(*groups: type) -> frozenset[str]:
    """Return the names of the fields of some groups of settings."""
    return frozenset(field.name for group in groups for field in fields(group))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. ConfigError names the file if that fails."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None
