"""A stronger classifier of the same classes: a finished training run, or an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gpt4image.errors import ConfigError
from gpt4image.evaluate.test_set import load_backbone
from gpt4image.files import read_json
from gpt4image.teachers.base import ImageTeacher
from gpt4image.teachers.preparation import timm_preparation
from gpt4image.train.backbone import create_model, load_weights
from gpt4image.train.run import open_run

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
