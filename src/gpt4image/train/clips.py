"""Models of clips: a timm model over the frames, whose features are pooled, or one of torchvision's video models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, WeightsError, first_line
from gpt4image.core.hub import described
from gpt4image.core.registry import unknown_name
from gpt4image.images.table import ImageTable
from gpt4image.train.backbone import VIDEO, check_image_size, create_model, fitting_options
from gpt4image.train.family import ModelFamily
from gpt4image.train.frozen import InputSource, prepare_inputs
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.weights import load_weights

ATTENTION_WIDTH = 128  # width of the hidden layer that weights frames


class MeanPool(nn.Module):
    """The mean over frames."""

    def forward(self, frames: Tensor) -> Tensor:
        """Return features of clips [B, F] of those of their frames [B, T, F]."""
        return frames.mean(dim=1)


class AttentionPool(nn.Module):
    """A mean over frames weighted by attention (Ilse et al., arXiv 1802.04712, equations 7 and 8).

    The weight of frame t is softmax_t(w · tanh(V h_t)).

    Args:
        width: width F of the features h.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.weight = (
            nn.Linear(width, ATTENTION_WIDTH, bias=False),
            nn.Linear(ATTENTION_WIDTH, 1, bias=False),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return features of clips [B, F] of those of their frames [B, T, F]."""
        weights: Tensor = self.weight(self.hidden(frames).tanh()).softmax(dim=1)  # [B, T, 1]
        return (weights * frames).sum(dim=1)


class MeanOverFrames(nn.Module):
    """The mean of what a model of images makes of the frames of clips: [B, T, 3, H, W] to [B, F]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        """Return the means."""
        features: Tensor = self.model(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(dim=1)
        return features


POOLS = {"mean": lambda width: MeanPool(), "attention": AttentionPool}


class ClipModel(nn.Module):
    """A model of clips: their features, then a linear classifier, whose input is what the alignment aligns.

    Args:
        body: maps frames [N, 3, H, W], or with no `pool` whole clips [B, 3, T, H, W], to features [..., F].
        width: width F of the features.
        classes: number of classes C.
        pool: makes features of clips [B, F] of those of their frames [B, T, F].

    Attributes:
        pretrained_cfg: timm's configuration of the body, of which the preprocessing is part.
        output_fmt: order of the body's feature maps.
    """

    def __init__(self, body: nn.Module, width: int, classes: int, pool: nn.Module | None) -> None:
        super().__init__()
        self.body, self.pool, self.head = body, pool, nn.Linear(width, classes)
        self.pretrained_cfg, self.output_fmt = body.pretrained_cfg, getattr(body, "output_fmt", "NCHW")

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits [B, C] of clips [B, T, 3, H, W]; instead of pixels, what the frozen part makes of frames."""
        if self.pool is None:
            features = self.body(clips.transpose(1, 2))
        else:
            features = self.pool(self.body(clips.flatten(0, 1)).unflatten(0, (-1, clips.shape[1])))
        logits: Tensor = self.head(features)
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's models do."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass. AttributeError if the body cannot."""
        self.body.set_grad_checkpointing(enable)  # type: ignore[operator]

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that must not decay."""
        named: set[str] = getattr(self.body, "no_weight_decay", set)()
        return {f"body.{name}" for name in named}


def build_clip_model(recipe: Recipe, classes: int, *, pretrained: bool, checkpoint: Path | None = None) -> ClipModel:
    """Build a recipe's model of clips, with a new classifier, on the CPU.

    Args:
        recipe: backbone, image size and pooling.
        classes: number of classes.
        pretrained: load pretrained weights of the backbone.
        checkpoint: weights file of the backbone, or of a model of clips that has it.

    Raises:
        ConfigError: unknown model, weights that do not fit, or settings that do not work with clips.
        WeightsError: the pretrained weights cannot be downloaded.
    """
    if recipe.align_at:
        raise ConfigError(
            "align_at (--align-at) names modules that see single frames, but descriptions are about clips: leave it "
            "empty to align the feature of the clip."
        )
    if recipe.backbone.startswith(VIDEO) and (recipe.drop_path or recipe.cached_views):
        raise ConfigError(
            f"drop_path (--drop-path) and cached_views (--cached-views) do not work with {recipe.backbone}: set them "
            "to 0."
        )
    if recipe.backbone.startswith(VIDEO) and recipe.frame_pooling != "mean":
        raise ConfigError(
            f"frame_pooling (--frame-pooling) is for backbones that see single frames, but {recipe.backbone} sees all "
            "at once: leave it at mean."
        )
    return create_clip_model(
        recipe.backbone, classes, recipe.frame_pooling, fitting_options(recipe), pretrained, checkpoint
    )


def create_clip_model(
    name: str,
    classes: int,
    pooling: str,
    options: Mapping[str, Any],
    pretrained: bool = False,
    checkpoint: Path | None = None,
) -> ClipModel:
    """Build a model of clips, see `build_clip_model`.

    Args:
        name: timm's name of a backbone, or `video:NAME`.
        classes: number of classes.
        pooling: how the features of frames become those of clips, of `POOLS`.
        options: options of `timm.create_model`.
        pretrained: load pretrained weights.
        checkpoint: weights file.
    """
    if name.startswith(VIDEO):
        body, width = build_video_model(name, pretrained, checkpoint)
        return ClipModel(body, width, classes, None)
    body = create_model(name, pretrained=pretrained, **options)
    if checkpoint is not None:
        load_weights(body, checkpoint)
    body.reset_classifier(0)  # type: ignore[operator]
    width = int(getattr(body, "head_hidden_size", None) or body.num_features)  # type: ignore[arg-type]
    return ClipModel(body, width, classes, POOLS[pooling](width))


def build_video_model(title: str, pretrained: bool, checkpoint: Path | None) -> tuple[nn.Module, int]:
    """Build one of torchvision's video models without its classifier; return it with the width of its features.

    See `build_clip_model`. `pretrained_cfg` is what timm would know of it, from torchvision's own preprocessing.
    """
    import torchvision.models as library

    name, known = title.removeprefix(VIDEO), library.list_models(module=library.video)
    if name not in known:
        raise ConfigError(unknown_name("video model of torchvision", name, known))
    weights = library.get_model_weights(name).DEFAULT  # every video model has some
    try:
        model: nn.Module = library.get_model(name, weights=weights if pretrained else None)
    except (OSError, RuntimeError) as error:  # no answer, or an invalid file
        raise WeightsError(
            f"The pretrained weights of {title} are not available ({described(error)}). Without network access, set "
            "checkpoint (--checkpoint FILE), or train from scratch with pretrained off (--no-pretrained)."
        ) from None
    linear = (nn.Linear, nn.Conv3d)  # S3D averages over positions after classifying, which gives the same
    last, layer = [(at, module) for at, module in model.named_modules() if isinstance(module, linear)][-1]
    if checkpoint is not None:
        model.get_classifier = lambda: layer  # type: ignore[assignment] # as `load_weights` asks timm's models
        load_weights(model, checkpoint)
        del model.get_classifier
    model.set_submodule(last, nn.Identity())
    model.pretrained_cfg = video_config(title, weights.transforms())  # type: ignore[assignment]
    return model, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def video_config(name: str, transforms: Any) -> dict[str, Any]:  # noqa: ANN401 - torchvision's VideoClassification
    """Return the preprocessing of one of torchvision's video models as timm's models have it."""
    crop, resized = transforms.crop_size, transforms.resize_size
    return {
        "architecture": name,
        "input_size": (3, crop[0], crop[-1]),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": "bilinear",
        "crop_pct": crop[0] / resized[0],
        "crop_mode": "center",
    }


class Clips(ModelFamily):
    """Models of clips: frames to logits."""

    def build(self, recipe: Recipe, classes: int) -> ClipModel:
        """Build a recipe's model, see `ModelFamily.build`; its body alone has initial weights."""
        start = None if recipe.checkpoint is None else Path(recipe.checkpoint)
        return build_clip_model(recipe, classes, pretrained=recipe.pretrained and start is None, checkpoint=start)

    def create(self, recipe: Recipe, classes: int) -> ClipModel:
        """Build the same model without its weights."""
        return build_clip_model(recipe, classes, pretrained=False)

    def inputs(
        self,
        model: nn.Module,
        images: ImageTable,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        augmentation: int = AUGMENTATION,
    ) -> InputSource:
        """Return the inputs of the model, or of its trained part; see `ModelFamily.inputs`."""
        assert images.frames is not None
        check_clip_size(model, recipe, images.frames.count)
        return prepare_inputs(model, images, recipe, folder, device, augmentation)


CLIPS = Clips()


@torch.no_grad()
def check_clip_size(model: nn.Module, recipe: Recipe, frames: int) -> None:
    """Raise ConfigError if a model does not take clips of this size, or so many frames."""
    body, size = model.body, recipe.image_size
    assert isinstance(body, nn.Module)
    if not recipe.backbone.startswith(VIDEO):
        check_image_size(body, recipe.backbone, size)
        return
    training = model.training
    try:
        model.eval()(torch.zeros(1, frames, 3, size, size))
    except Exception as error:  # each architecture raises its own errors
        own = model.pretrained_cfg["input_size"][-1]  # type: ignore[index]
        raise ConfigError(
            f"{recipe.backbone} does not accept {frames} frames of {size} x {size} pixels ({first_line(error)}). "
            f"Choose its own number of frames, such as 16 (--frames 16), and image size, {own} (--image-size)."
        ) from None
    finally:
        model.train(training)
