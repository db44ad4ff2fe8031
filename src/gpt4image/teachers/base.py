"""Vision teachers: frozen models that turn images into features, or into logits for the classes of the image set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.registry import Registry, resolve
from gpt4image.embed.encoders import hash_weights
from gpt4image.teachers.preparation import Preparation


@dataclass(frozen=True)
class TeacherKind:
    """A kind of teacher: how to build one, and its properties that are known beforehand.

    Attributes:
        build: called as `build(model, device, name="kind:model")`; the callable itself, or its "module:attribute".
        gives_labels: its teachers return logits, which become soft labels, instead of features.
        settings: further arguments that `build` accepts: `checkpoint`, `image_size`.
    """

    build: Callable[..., Teacher] | str
    gives_labels: bool = False
    settings: tuple[str, ...] = ()


TEACHERS: Registry[TeacherKind | Callable[..., Teacher]] = Registry(
    "kind of teacher",
    {
        "open-clip": TeacherKind("gpt4image.teachers.models:ClipTeacher"),
        "run": TeacherKind("gpt4image.teachers.models:RunTeacher", gives_labels=True),
        "timm": TeacherKind("gpt4image.teachers.models:TimmTeacher", settings=("checkpoint", "image_size")),
    },
    group="gpt4image.teachers",
)
"""A plain callable is a kind whose teachers return features and take no settings."""


class Teacher(Protocol):
    """Interface of a vision teacher.

    Attributes:
        name: its name, as the user writes it.
        revision: hash of its weights and preparation, which shows when the model behind a name has changed.
        width: length D of an output.
        classes: class names if the outputs are logits; None if they are features.
        preparation: how images are prepared for it.
    """

    name: str
    revision: str
    width: int
    classes: tuple[str, ...] | None
    preparation: Preparation

    def predict(self, images: Tensor) -> np.ndarray:
        """Return features or logits, float32 [B, D], of prepared images [B, 3, H, W] or clips [B, T, 3, H, W].

        The images are on the CPU.
        """
        ...


def load_teacher(
    name: str, device: str | None = None, *, checkpoint: str | Path | None = None, image_size: int | None = None
) -> Teacher:
    """Load a vision teacher.

    Args:
        name: `timm:MODEL`, the pooled features of any timm model, such as `timm:vit_small_patch14_dinov2.lvd142m`;
            `open-clip:MODEL/PRETRAINED` with a tag or a weights file, or `open-clip:hf-hub:NAME`, the image tower;
            `run:FOLDER`, the logits of a finished training run or of an exported model; or a registered kind.
        device: torch device; by default a GPU if there is one.
        checkpoint: weights file of a timm model, instead of its pretrained weights.
        image_size: height and width in pixels of a timm model's input, instead of its own.

    Raises:
        ConfigError: the kind is unknown; or the model cannot be loaded, returns no vectors or lacks a given setting.
        MissingExtraError: the library for it is not installed.
        StoreError: the folder holds no finished run.
    """
    kind, model = find_kind(name)
    given = {"checkpoint": Path(checkpoint) if checkpoint else None, "image_size": image_size}
    settings = {key: value for key, value in given.items() if value is not None}
    for key in settings.keys() - set(kind.settings):
        raise ConfigError(
            f"{name} takes no {'weights file' if key == 'checkpoint' else 'image size'}; timm teachers do. A weights "
            "file of open_clip is part of the name: open-clip:MODEL/FILE."
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return resolve(kind.build)(model, where, name=name, **settings)


def find_kind(name: str) -> tuple[TeacherKind, str]:
    """Split the name of a teacher into its kind and its model.

    Raises:
        ConfigError: the name is not that of a teacher, or its kind is unknown.
    """
    kind, _, model = name.partition(":")
    if not model:
        raise ConfigError(
            f"{name!r} names no teacher. Write timm:MODEL, such as timm:resnet50; open-clip:MODEL/PRETRAINED; or "
            "run:FOLDER with a finished run."
        )
    found = TEACHERS.load(kind)
    return found if isinstance(found, TeacherKind) else TeacherKind(found), model


class ImageTeacher:
    """A torch module as a teacher, in half precision on a GPU.

    Args:
        model: maps images [B, 3, H, W] to features or logits [B, D].
        preparation: how images are prepared for it.
        device: where it runs.
        name: its name, as the user writes it.
        classes: class names if it returns logits.
        frames: frames T of a clip if the model takes clips [B, T, 3, H, W]. A model of images sees the frames of a clip
            one by one, and its outputs are averaged.

    Raises:
        ConfigError: the model does not accept images of this size, or returns no vector per image.
    """

    def __init__(
        self,
        model: nn.Module,
        preparation: Preparation,
        device: torch.device,
        *,
        name: str,
        classes: tuple[str, ...] | None = None,
        frames: int | None = None,
    ) -> None:
        self.name, self.classes, self.preparation, self.frames = name, classes, preparation, frames
        self.revision = digest(hash_weights(model.state_dict()), preparation.settings)
        self._device = device
        model = model.eval().requires_grad_(False)
        flat = all(weights.ndim < 5 for weights in model.parameters())  # video models have 5-D weights
        order = torch.channels_last if flat else torch.contiguous_format
        self._model: nn.Module = model.to(device, memory_format=order)  # type: ignore[call-overload]
        self.width = self._measure_width()

    def _measure_width(self) -> int:
        try:
            frames = [self.frames] if self.frames else []
            shape = self.predict(torch.zeros(1, *frames, 3, *self.preparation.size)).shape
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"Teacher {self.name} does not accept images of {self.preparation.size}: {error}"
            ) from None
        if len(shape) != 2:
            raise ConfigError(
                f"Teacher {self.name} returns outputs of shape {shape[1:]} per image, not vectors. Choose a model that "
                "pools, such as timm:resnet50."
            )
        return int(shape[1])

    @torch.inference_mode()
    def predict(self, images: Tensor) -> np.ndarray:
        """Return features or logits, float32 [B, D], of prepared images [B, 3, H, W] or clips [B, T, 3, H, W]."""
        return np.asarray(self._run(images).cpu().numpy(), dtype=np.float32)

    @torch.no_grad()
    def embed_crops(self, crops: Tensor) -> Tensor:
        """Return unit vectors [B, D] of crops with colours from 0 to 1, float32 [B, 3, H, W], on their device.

        The teacher is moved to that device. Crops that differ in size from its input are resized.
        """
        if self._device != crops.device:
            self._device, self._model = crops.device, self._model.to(crops.device)
        size, preparation = tuple(self.preparation.size), self.preparation
        if crops.shape[2:] != size:
            crops = F.interpolate(crops, size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
        mean, std = (crops.new_tensor(values).view(-1, 1, 1) for values in (preparation.mean, preparation.std))
        return F.normalize(self._run((crops - mean) / std), dim=1)

    def _run(self, images: Tensor) -> Tensor:
        """Return features or logits, float32 [B, D], on the model's device."""
        if images.ndim == 5 and not self.frames:
            frames = self._run(images.flatten(0, 1))
            return frames.view(*images.shape[:2], -1).mean(dim=1)
        order = torch.channels_last if images.ndim == 4 else torch.preserve_format
        batch = images.to(self._device, memory_format=order, non_blocking=True)
        half = torch.bfloat16 if self._device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        with torch.autocast("cuda", half) if self._device.type == "cuda" else nullcontext():
            outputs: Tensor = self._model(batch)
        return outputs.float()
