"""Frozen vision teachers: images to features, or to logits for this image set's classes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.registry import Registry
from gpt4image.embed.encoders import hash_weights
from gpt4image.teachers.preparation import Preparation

TEACHERS: Registry[Callable[..., Teacher]] = Registry(
    "kind of teacher",
    {
        "open-clip": "gpt4image.teachers.models:ClipTeacher",
        "run": "gpt4image.teachers.models:RunTeacher",
        "timm": "gpt4image.teachers.models:TimmTeacher",
    },
    group="gpt4image.teachers",
)
"""Each is called as `teacher(model, device, name=name)`, with what stands behind the colon of `kind:model`."""


class Teacher(Protocol):
    """What the teaching stage needs of a vision teacher.

    Attributes:
        name: the teacher as the user names it.
        revision: hash of its weights and of how pictures are prepared; a model that changes under its name is noticed.
        width: length D of an answer.
        classes: class names where the answers are logits; None where they are features.
        preparation: how pictures are prepared.
    """

    name: str
    revision: str
    width: int
    classes: tuple[str, ...] | None
    preparation: Preparation

    def answer(self, images: Tensor) -> np.ndarray:
        """Features or logits [B, D], float32, of prepared images [B, 3, H, W] on the CPU."""
        ...


def load_teacher(
    name: str, device: str | None = None, *, checkpoint: Path | None = None, image_size: int | None = None
) -> Teacher:
    """Load a vision teacher.

    Args:
        name: `timm:MODEL`, the pooled features of any timm model, such as `timm:vit_small_patch14_dinov2.lvd142m`;
            `open-clip:MODEL/PRETRAINED` with a tag or a weights file, or `open-clip:hf-hub:NAME`, the image tower;
            `run:FOLDER`, the logits of a finished training run or of an exported model.
        device: torch device; a GPU if there is one when not given.
        checkpoint: weights file of a timm model, in place of its pretrained weights.
        image_size: height and width in pixels that a timm model sees, in place of its own.

    Raises:
        ConfigError: unknown kind, the model cannot be loaded, or gives no vectors.
        MissingExtraError: the library for it is not installed.
        StoreError: the folder holds no finished run.
    """
    kind, separator, model = name.partition(":")
    if not separator or not model:
        raise ConfigError(
            f"{name!r} names no teacher. Write timm:MODEL, such as timm:resnet50; open-clip:MODEL/PRETRAINED; or "
            "run:FOLDER with a finished run."
        )
    part = TEACHERS.load(kind)
    if kind != "timm" and (checkpoint is not None or image_size is not None):
        raise ConfigError(
            f"A weights file and an image size are for timm teachers, not for {name}. A weights file of open_clip is "
            "part of the name: open-clip:MODEL/FILE."
        )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {"checkpoint": checkpoint, "image_size": image_size} if kind == "timm" else {}
    return part(model, where, name=name, **options)


class ImageTeacher:
    """A frozen model on a device: in half precision on a GPU, channels last everywhere.

    Args:
        model: maps images [B, 3, H, W] to features or logits [B, D].
        preparation: how pictures are prepared for it.
        device: where it runs.
        name: the teacher as the user names it.
        classes: class names of logits.

    Raises:
        ConfigError: what the model gives is not one vector an image.
    """

    def __init__(
        self,
        model: nn.Module,
        preparation: Preparation,
        device: torch.device,
        *,
        name: str,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.name, self.classes, self.preparation = name, classes, preparation
        self.revision = digest(hash_weights(model.state_dict()), preparation.settings)
        self._device = device
        model = model.eval().requires_grad_(False)
        self._model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.width = self._measure_width()

    def _measure_width(self) -> int:
        try:
            shape = self.answer(torch.zeros(1, 3, *self.preparation.size)).shape
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"Teacher {self.name} does not take images of {self.preparation.size}: {error}") from None
        if len(shape) != 2:
            raise ConfigError(
                f"Teacher {self.name} gives answers of shape {shape[1:]} an image, not a vector. Choose a model that "
                "pools, such as timm:resnet50."
            )
        return int(shape[1])

    @torch.inference_mode()
    def answer(self, images: Tensor) -> np.ndarray:
        """Features or logits [B, D], float32, of prepared images [B, 3, H, W] on the CPU."""
        batch = images.to(self._device, memory_format=torch.channels_last, non_blocking=True)
        with autocast(self._device):
            answers = self._model(batch)
        return np.asarray(answers.float().cpu().numpy(), dtype=np.float32)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Half precision on a GPU: bfloat16 where it has it, else float16; full precision elsewhere."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
