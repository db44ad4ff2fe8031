"""Pooled features of any timm model: supervised, DINO, DINOv2, SigLIP..."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gpt4image.errors import ConfigError, first_line
from gpt4image.seams import unknown_name
from gpt4image.teachers.base import ImageTeacher
from gpt4image.teachers.preparation import timm_config, timm_preparation
from gpt4image.train.backbone import create_model, load_weights, near_models, takes_image_size

SCHEMAS = ("hf-hub:", "hf_hub:", "local-dir:")


class TimmTeacher(ImageTeacher):
    """A timm model without its classifier, at its own image size and with its own evaluation preprocessing.

    Args:
        model: name of a timm model, `hf-hub:NAME` or `local-dir:FOLDER`.
        device: where it runs.
        name: the teacher as the user names it.
        checkpoint: weights file in place of the pretrained weights; a classifier in it is left out.
        image_size: height and width in pixels in place of its own.

    Raises:
        ConfigError: unknown model, weights that cannot be had or do not fit, or an image size that it does not take.
    """

    def __init__(
        self,
        model: str,
        device: torch.device,
        *,
        name: str,
        checkpoint: Path | None = None,
        image_size: int | None = None,
    ) -> None:
        built = build_features(model, checkpoint, image_size)
        super().__init__(built, timm_preparation(timm_config(built, image_size)), device, name=name)


def build_features(model: str, checkpoint: Path | None, image_size: int | None) -> nn.Module:
    """A timm model that maps images [B, 3, H, W] to pooled features [B, D], on the CPU."""
    options = {"img_size": image_size} if image_size is not None and takes_image_size(model) else {}
    if checkpoint is None:
        return fetch_pretrained(model, options)
    built = create_model(model, pretrained=False, num_classes=1, **options)
    load_weights(built, checkpoint)
    built.reset_classifier(0)  # type: ignore[operator]
    return built


def fetch_pretrained(model: str, options: dict[str, int]) -> nn.Module:
    """A timm model with its pretrained weights and no classifier. ConfigError when they cannot be had."""
    import timm

    if not model.startswith(SCHEMAS) and not timm.is_model(model):
        raise ConfigError(unknown_name("timm model", model, near_models(model)) + " All names: timm.list_models().")
    try:
        built: nn.Module = timm.create_model(model, pretrained=True, num_classes=0, **options)
    except Exception as error:  # what a hub raises depends on the hub's client
        raise ConfigError(
            f"The pretrained weights of {model} cannot be had ({type(error).__name__}: {first_line(error)}). Give a "
            "weights file: --teacher-checkpoint FILE."
        ) from None
    return built
