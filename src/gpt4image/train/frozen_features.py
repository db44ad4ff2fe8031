"""Pooled features of images by a frozen backbone, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.embed.encoders import hash_weights
from gpt4image.images.table import ImageTable
from gpt4image.train.backbone import build_backbone, check_image_size
from gpt4image.train.data import ImageInputs
from gpt4image.train.frozen import FeatureCache
from gpt4image.train.processes import fold_batch_norms, order_channels
from gpt4image.train.recipe import Recipe
from gpt4image.train.transforms import Normalization, evaluated_view, preprocessing


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone whose features are used without training.

    Attributes:
        checkpoint: weights file; None for timm's pretrained weights.
        image_size: height and width of its input in pixels.
    """

    name: str
    checkpoint: Path | None = None
    image_size: int = 224

    @property
    def title(self) -> str:
        """Its name, weights and image size.

        >>> FrozenBackbone("resnet50").title
        'resnet50 (pretrained, 224 pixels)'
        """
        weights = "pretrained" if self.checkpoint is None else self.checkpoint.name
        return f"{self.name} ({weights}, {self.image_size} pixels)"

    def build(self) -> nn.Module:
        """Build the backbone without its classifier, on the CPU: images [B, 3, H, W] to pooled features [B, F].

        Raises:
            ConfigError: unknown model, weights that are not available or do not fit, or an unsuitable image size.
        """
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        recipe = Recipe(backbone=self.name, checkpoint=checkpoint, image_size=self.image_size)
        model = build_backbone(recipe, classes=1, remedy="name a weights file as checkpoint (--checkpoint FILE)")
        check_image_size(model, self.name, self.image_size)
        model.reset_classifier(0)  # type: ignore[operator]
        return model.eval().requires_grad_(False)


def frozen_features(
    images: ImageTable,
    rows: np.ndarray,
    backbone: FrozenBackbone,
    folder: Path,
    *,
    device: torch.device | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Return the pooled features of some images, computed once; an interrupted computation resumes.

    Args:
        images: the images, which are resized and cropped as in the backbone's evaluation.
        rows: table positions, int64 [N], at least one.
        folder: folder of cached features.
        device: device that computes them; the fastest available by default.

    Returns:
        Features [N, F], float16, memory-mapped.

    Raises:
        ConfigError: unknown model, weights that are not available or do not fit, or features that are not finite.
        ImageError: an image cannot be read.
    """
    model = backbone.build()
    config = preprocessing(model, backbone.image_size)
    if images.frames is not None:  # the mean over frames
        from gpt4image.train.clips import MeanOverFrames

        model = MeanOverFrames(model)
    identity = digest(backbone.name, hash_weights(model.state_dict()), repr(sorted(config.items())))
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sample = torch.linspace(-2, 2, 6 * backbone.image_size**2).view(2, 3, backbone.image_size, backbone.image_size)
    if images.frames is not None:
        sample = sample[:, None]
    model = order_channels(fold_batch_norms(model, sample).to(device), torch.channels_last)
    cache = FeatureCache(model, folder / identity[:16], identity, device, Normalization.of(config), batch_size)
    features = cache.fill("pooled", ImageInputs(images, rows, evaluated_view(config))).features
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ConfigError(
            f"{backbone.title} computes features of shape {features.shape[1:]}, or values that are not finite. Choose "
            "a backbone that pools, such as resnet50, with trained weights."
        )
    return features
