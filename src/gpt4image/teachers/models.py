"""The built-in teachers: timm models, open_clip image towers, and classifiers trained by this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, MissingExtraError, first_line
from gpt4image.core.files import read_json
from gpt4image.core.hub import hub_access
from gpt4image.embed.encoders import check_clip_name, split_clip_name
from gpt4image.images.clips import FrameChoice
from gpt4image.teachers.base import ImageTeacher, find_kind
from gpt4image.teachers.preparation import TIMM_KEYS, Preparation, timm_preparation
from gpt4image.train.backbone import (
    check_image_size,
    create_model,
    model_options,
    require_backbone,
)
from gpt4image.train.clips import CLIPS, create_clip_model
from gpt4image.train.family import CLASSIFIERS, find_family
from gpt4image.train.run import load_backbone, open_run
from gpt4image.train.text_space import TextSpace
from gpt4image.train.weights import load_weights

REMEDY = "give a weights file as checkpoint (--teacher-checkpoint FILE)"  # where there are no pretrained weights


def check_teacher(name: str) -> None:
    """Check the name of a teacher, without loading it.

    Raises:
        ConfigError: the kind is unknown, or has no such model.
        MissingExtraError: its library is not installed.
    """
    find_kind(name)
    kind, _, model = name.partition(":")
    if kind == "timm":
        require_backbone(model)
    if kind == "open-clip":
        check_clip_name(model, f"Teacher {name!r}")


class TimmTeacher(ImageTeacher):
    """Pooled features of a timm model, with its own evaluation preprocessing.

    Args:
        model: name of a timm model, `hf-hub:NAME` or `local-dir:FOLDER`.
        device: where it runs.
        name: the teacher's name, as the user writes it.
        checkpoint: weights file, instead of the pretrained weights; a classifier in it is skipped.
        image_size: height and width in pixels, instead of its own.

    Raises:
        ConfigError: an unknown model, weights that are not available or do not fit, or an unsuitable image size.
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
        from timm.data import resolve_model_data_config

        options = model_options(model, image_size)
        if checkpoint is None:
            built = create_model(model, pretrained=True, remedy=REMEDY, num_classes=0, **options)
        else:
            built = create_model(model, pretrained=False, num_classes=1, **options)
            load_weights(built, checkpoint)
            built.reset_classifier(0)  # type: ignore[operator]
        if image_size is not None:
            check_image_size(built, name, image_size)
        wanted = {} if image_size is None else {"input_size": (3, image_size, image_size)}
        config = resolve_model_data_config(built, args=wanted)
        super().__init__(built, timm_preparation({key: config[key] for key in TIMM_KEYS}), device, name=name)


class ClipTeacher(ImageTeacher):
    """The image tower of an open_clip model, with its own evaluation preprocessing.

    Args:
        model: MODEL/PRETRAINED, where PRETRAINED is a tag or a weights file; `hf-hub:NAME` or `local-dir:FOLDER`.
        device: where it runs.
        name: the teacher's name, as the user writes it.

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
            with hub_access():
                built, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=pretrained)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Teacher {name!r} cannot be loaded: {first_line(error).rstrip('.')}.") from None
        config: dict[str, Any] = built.visual.preprocess_cfg
        size = config["size"]
        size = (size, size) if isinstance(size, int) else tuple(size)
        super().__init__(_ImageTower(built.eval()), Preparation.of(transform, size, config), device, name=name)


class _ImageTower(nn.Module):
    """The image side of an open_clip model; the text tower stays on the CPU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.visual
        self._encode = model.encode_image  # a bound method: the text tower's weights are not part of this module

    def forward(self, images: Tensor) -> Tensor:
        """Return image vectors [B, D], of any length, of images [B, 3, H, W]."""
        vectors: Tensor = self._encode(images)  # type: ignore[operator]
        return vectors


class RunTeacher(ImageTeacher):
    """The logits of a classifier trained by this library.

    Args:
        model: folder of a finished run, or of an exported model.
        device: where it runs.
        name: the teacher's name, as the user writes it.

    Raises:
        StoreError: the folder contains neither.
        ConfigError: the exported model is damaged.
    """

    def __init__(self, model: str, device: torch.device, *, name: str) -> None:
        folder = Path(model)
        if (folder / "config.json").exists():
            built, config, classes, frames = read_exported(folder)
        else:
            run = open_run(folder)
            if find_family(run.task) not in (CLASSIFIERS, CLIPS):
                raise ConfigError(f"{folder} is a detector, which is no teacher of images: name a classifier.")
            built, config, classes, frames = load_backbone(run), run.preprocessing, run.classes, run.frames
        count = frames.count if frames else None
        super().__init__(built, timm_preparation(config), device, name=name, classes=classes, frames=count)


class ProjectedTeacher(ImageTeacher):
    """A run's image vectors in the text space that it was aligned with.

    Args:
        space: the text space.
        device: where it runs; by default a GPU if there is one.
    """

    def __init__(self, space: TextSpace, device: torch.device | None = None) -> None:
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name = f"text-space:{space.run.layout.folder.name}"
        run = space.run
        frames = run.frames.count if run.frames else None
        super().__init__(space.projection, timm_preparation(run.preprocessing), device, name=name, frames=frames)


def read_exported(folder: Path) -> tuple[nn.Module, dict[str, Any], tuple[str, ...], FrameChoice | None]:
    """Read an exported model: the model, its data configuration, its classes, and the frames of clips that it sees."""
    config = read_json(folder / "config.json")
    try:
        frames = FrameChoice.from_name(config["frames"]) if "frames" in config else None
        architecture, classes, options = config["architecture"], config["num_classes"], config["model_args"]
        model = (
            create_clip_model(architecture, classes, config["frame_pooling"], options)
            if frames
            else create_model(architecture, pretrained=False, num_classes=classes, **options)
        )
        preprocessing = {key: config["pretrained_cfg"][key] for key in TIMM_KEYS}
        names = tuple(config["label_names"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'config.json'} is not that of an exported model ({error}).") from None
    load_weights(model, folder / "model.safetensors")
    return model, preprocessing, names, frames
