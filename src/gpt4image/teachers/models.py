"""Pooled features of any timm model: supervised, DINO, DINOv2, SigLIP..."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, MissingExtraError, first_line
from gpt4image.core.files import read_json
from gpt4image.core.registry import unknown_name
from gpt4image.embed.encoders import split_clip_name
from gpt4image.teachers.base import ImageTeacher
from gpt4image.teachers.preparation import Preparation, timm_config, timm_preparation
from gpt4image.train.backbone import create_model, load_weights, near_models, takes_image_size
from gpt4image.train.run import load_backbone, open_run

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


PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
        model: maps images [B, 3, H, W] to logits [B, C], on the CPU.
        preprocessing: how images are prepared, as timm names it.
        classes: class names.
    """

    model: nn.Module
    preprocessing: dict[str, Any]
    classes: tuple[str, ...]


class RunTeacher(ImageTeacher):
    """The logits of a classifier that this library has trained.

    Args:
        model: folder of a finished run, or of an exported model.
        device: where it runs.
        name: the teacher as the user names it.

    Raises:
        StoreError: the folder holds neither.
        ConfigError: the exported model is damaged.
    """

    def __init__(self, model: str, device: torch.device, *, name: str) -> None:
        folder = Path(model)
        found = read_exported(folder) if (folder / "config.json").exists() else read_run(folder)
        super().__init__(found.model, timm_preparation(found.preprocessing), device, name=name, classes=found.classes)


def read_run(folder: Path) -> Classifier:
    """The kept model of a finished run. StoreError when it is not finished."""
    run = open_run(folder)
    return Classifier(load_backbone(run), run.preprocessing, run.classes)


def read_exported(folder: Path) -> Classifier:
    """A model that was exported for deployment, in timm's layout."""
    config = read_json(folder / "config.json")
    try:
        model = create_model(
            config["architecture"], pretrained=False, num_classes=config["num_classes"], **config["model_args"]
        )
        preprocessing = {key: config["pretrained_cfg"][key] for key in PREPROCESSING}
        classes = tuple(config["label_names"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'config.json'} is not that of an exported model ({error}).") from None
    load_weights(model, folder / "model.safetensors")
    return Classifier(model, preprocessing, classes)
