"""Predictions of an exported model for image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.core.files import read_json
from gpt4image.export.model import ExportLayout
from gpt4image.images import decode
from gpt4image.images.sources.folders import is_hidden, is_image_name
from gpt4image.train.backbone import create_model
from gpt4image.train.transforms import Transform, evaluation_transform


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: the image.
        answers: the most probable classes with their probabilities, in descending order; empty if it is unreadable.
        error: why it is unreadable.
    """

    path: Path
    answers: tuple[tuple[str, float], ...]
    error: str | None = None


@dataclass(frozen=True)
class DeployedModel:
    """An exported model: network, class names, and the preprocessing of its images."""

    network: nn.Module
    classes: tuple[str, ...]
    transform: Transform

    @classmethod
    def load(cls, folder: Path) -> DeployedModel:
        """Load an exported model. ConfigError if the folder holds none."""
        layout = ExportLayout(folder)
        if not (layout.config.exists() and layout.weights.exists()):
            raise ConfigError(
                f"{folder} holds no exported model. Export one: gpt4image export DATA --run RUN --out {folder}."
            )
        config = read_json(layout.config)
        network = create_model(
            config["architecture"],
            pretrained=False,
            num_classes=config["num_classes"],
            checkpoint_path=str(layout.weights),
            **config["model_args"],
        )
        keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        transform = evaluation_transform({key: config["pretrained_cfg"][key] for key in keys})
        return cls(network.eval(), tuple(config["label_names"]), transform)

    def predict(self, paths: Sequence[Path], top: int) -> list[Prediction]:
        """Predict one batch of images; an unreadable one gets its error."""
        found: dict[Path, Prediction] = {}
        readable = {}
        for path in paths:
            try:
                readable[path] = self.transform(decode(path.read_bytes(), str(path)))
            except (ImageError, OSError) as error:
                found[path] = Prediction(path, (), str(error).removeprefix(f"{path}: "))
        if readable:
            with torch.no_grad():
                probabilities = self.network(torch.stack(list(readable.values()))).softmax(dim=1)  # [B, C]
            best = probabilities.topk(min(top, len(self.classes)), dim=1)
            for path, values, labels in zip(readable, best.values.tolist(), best.indices.tolist(), strict=True):
                names = [self.classes[label] for label in labels]
                found[path] = Prediction(path, tuple(zip(names, values, strict=True)))
        return [found[path] for path in paths]


def predict_images(model: Path, sources: Sequence[Path], *, top: int = 3, batch_size: int = 32) -> Iterator[Prediction]:
    """Predict the classes of images with an exported model; an unreadable image gets its error.

    Args:
        model: folder of the exported model.
        sources: image files, or folders; in folders, files with the extension of an image.
        top: number of classes to return per image.
        batch_size: images at a time.

    Raises:
        ConfigError: the folder holds no exported model.
        DataError: a source does not exist, or there is no image at all.
    """
    deployed = DeployedModel.load(model)
    files = list(_image_files(sources))
    if not files:
        raise DataError(f"No images in {', '.join(map(str, sources)) or 'nothing'}. Name images, or folders of images.")
    for start in range(0, len(files), batch_size):
        yield from deployed.predict(files[start : start + batch_size], top)


def _image_files(sources: Iterable[Path]) -> Iterator[Path]:
    for source in sources:
        if source.is_dir():
            inside = (path for path in source.rglob("*") if is_image_name(path.name) and not is_hidden(path.name))
            yield from sorted(path for path in inside if path.is_file())
        elif source.exists():
            yield source
        else:
            raise DataError(f"{source} does not exist.")
