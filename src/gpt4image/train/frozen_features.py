"""What a frozen backbone sees in images: its pooled features, computed once."""

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
from gpt4image.train.augment import evaluation_transform, preprocessing
from gpt4image.train.backbone import build_backbone
from gpt4image.train.data import ImageInputs
from gpt4image.train.frozen import FeatureCache
from gpt4image.train.recipe import Recipe


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone whose features are looked at.

    Attributes:
        name: any timm model.
        checkpoint: weights file; timm's pretrained weights when not given.
        image_size: height and width in pixels of the images it sees.
    """

    name: str
    checkpoint: Path | None = None
    image_size: int = 224

    @property
    def title(self) -> str:
        """Its name and where its weights are from.

        >>> FrozenBackbone("resnet50").title
        'resnet50 (pretrained, 224 pixels)'
        """
        weights = "pretrained" if self.checkpoint is None else self.checkpoint.name
        return f"{self.name} ({weights}, {self.image_size} pixels)"

    def build(self) -> nn.Module:
        """The backbone without its classifier, on the CPU: images [B, 3, H, W] to pooled features [B, F].

        Raises:
            ConfigError: unknown model, or weights that cannot be had or do not fit.
        """
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        recipe = Recipe(backbone=self.name, checkpoint=checkpoint, image_size=self.image_size)
        model = build_backbone(recipe, classes=1)
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
    """Pooled features of some images: computed once, goes on where it was stopped, then read back.

    Images are resized and cropped as the backbone's evaluation does it.

    Args:
        images: the images.
        rows: positions in the table, int64 [n], at least one.
        backbone: what looks at them.
        folder: where stored features lie.
        device: where they are computed; the fastest available when not given.
        batch_size: images at a time.

    Returns:
        Features [n, F], float16, memory-mapped.

    Raises:
        ConfigError: unknown model, weights that cannot be had or do not fit, or features that are not finite.
        ImageError: an image cannot be read.
    """
    model = backbone.build()
    config = preprocessing(model, backbone.image_size)
    identity = digest(backbone.name, hash_weights(model.state_dict()), repr(sorted(config.items())))
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    cache = FeatureCache(model, folder / identity[:16], identity, device, batch_size)
    cache.store(
        "pooled", ImageInputs(images, rows, evaluation_transform(config)), 1, digest(images.ids[rows].tobytes())
    )
    features: np.ndarray = np.load(folder / identity[:16] / "pooled.npy", mmap_mode="r")
    check_features(features, backbone)
    return features


def check_features(features: np.ndarray, backbone: FrozenBackbone) -> None:
    """ConfigError when features [n, F] are no vectors or not finite."""
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ConfigError(
            f"{backbone.title} gives features of shape {features.shape[1:]}, or some that are not finite: choose a "
            "backbone that pools, such as resnet50, with weights that were trained."
        )
