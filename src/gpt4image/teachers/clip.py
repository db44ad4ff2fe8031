"""The image tower of a CLIP-family model, through open_clip (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpt4image.embed.encoders import split_clip_name
from gpt4image.errors import ConfigError, MissingExtraError, first_line
from gpt4image.teachers.base import ImageTeacher
from gpt4image.teachers.preparation import Preparation


class ImageTower(nn.Module):
    """What an open_clip model says of images; its text tower stays on the CPU.

    Args:
        model: the whole model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.visual
        self._encode = model.encode_image  # a bound method: the text tower's weights are not part of this module

    def forward(self, images: Tensor) -> Tensor:
        """Image vectors [B, D], of any length, of images [B, 3, H, W]."""
        vectors: Tensor = self._encode(images)  # type: ignore[operator]
        return vectors


class ClipTeacher(ImageTeacher):
    """An open_clip image tower with open_clip's own evaluation preprocessing.

    Args:
        model: MODEL/PRETRAINED, where PRETRAINED is a tag or a weights file; `hf-hub:NAME` or `local-dir:FOLDER`.
        device: where it runs.
        name: the teacher as the user names it.

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtraError: open_clip is not installed.
    """

    def __init__(self, model: str, device: torch.device, *, name: str) -> None:
        try:
            import open_clip
        except ImportError:
            raise MissingExtraError("open_clip_torch", "clip", f"Teacher {name!r}") from None
        architecture, pretrained = split_clip_name(model)
        try:
            built, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=pretrained)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Teacher {name!r} cannot be loaded: {first_line(error)}") from None
        super().__init__(
            ImageTower(built.eval()), clip_preparation(transform, built.visual.preprocess_cfg), device, name=name
        )


def clip_preparation(transform: Any, config: dict[str, Any]) -> Preparation:  # noqa: ANN401 - open_clip is untyped
    """Preparation of an open_clip model from its evaluation transform and `preprocess_cfg`."""
    size = config["size"]
    return Preparation(
        plain=transform,
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        settings=repr(sorted((key, str(value)) for key, value in config.items())),
    )
