"""Labels for images from an exported model."""

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
from gpt4image.train.augment import Transform, evaluation_transform
from gpt4image.train.backbone import create_model


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        path: the image.
        answers: the likeliest classes with their probabilities, likeliest first; empty when it cannot be read.
        error: why it cannot be read.
    """

    path: Path
    answers: tuple[tuple[str, float], ...]
    error: str | None = None


@dataclass(frozen=True)
class Deployed:
    """An exported model, ready to answer.

    Attributes:
        model: maps images [B, 3, H, W] to logits [B, C].
        classes: class names.
        transform: prepares a picture.
    """

    model: nn.Module
    classes: tuple[str, ...]
    transform: Transform


def load_exported(folder: Path) -> Deployed:
    """Load an exported model. ConfigError when the folder holds none."""
    layout = ExportLayout(folder)
    if not (layout.config.exists() and layout.weights.exists()):
        raise ConfigError(
            f"{folder} holds no exported model. Make one: gpt4image export DATA --run RUN --out {folder}."
        )
    config = read_json(layout.config)
    model = create_model(
        config["architecture"],
        pretrained=False,
        num_classes=config["num_classes"],
        checkpoint_path=str(layout.weights),
        **config["model_args"],
    )
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    preparation = {key: config["pretrained_cfg"][key] for key in keys}
    return Deployed(model.eval(), tuple(config["label_names"]), evaluation_transform(preparation))


def predict_images(model: Path, sources: Sequence[Path], *, top: int = 3, batch_size: int = 32) -> Iterator[Prediction]:
    """Answer images with an exported model; an image that cannot be read gets its error, and the others go on.

    Args:
        model: folder of the exported model.
        sources: images, or folders; in these, files that are called like images.
        top: classes named for each image.
        batch_size: images at a time.

    Raises:
        ConfigError: the model's folder holds no model.
        DataError: a source does not exist, or there is no image at all.
    """
    deployed = load_exported(model)
    files = list(list_files(sources))
    if not files:
        raise DataError(f"No image in {', '.join(map(str, sources)) or 'nothing'}. Name images, or folders of images.")
    for start in range(0, len(files), batch_size):
        yield from answer(deployed, files[start : start + batch_size], top)


def list_files(sources: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and the images in folders, in order."""
    for source in sources:
        if source.is_dir():
            inside = (path for path in source.rglob("*") if is_image_name(path.name) and not is_hidden(path.name))
            yield from sorted(path for path in inside if path.is_file())
        elif source.exists():
            yield source
        else:
            raise DataError(f"{source} does not exist.")


def answer(deployed: Deployed, paths: Sequence[Path], top: int) -> list[Prediction]:
    """Answers to some images, in their order."""
    found: dict[Path, Prediction] = {}
    pictures = {}
    for path in paths:
        try:
            pictures[path] = deployed.transform(decode(path.read_bytes(), str(path)))
        except (ImageError, OSError) as error:
            found[path] = Prediction(path, (), str(error).removeprefix(f"{path}: "))
    if pictures:
        with torch.no_grad():
            probabilities = deployed.model(torch.stack(list(pictures.values()))).softmax(dim=1)
        best = probabilities.topk(min(top, len(deployed.classes)), dim=1)
        for path, values, labels in zip(pictures, best.values.tolist(), best.indices.tolist(), strict=True):
            names = tuple((deployed.classes[label], value) for label, value in zip(labels, values, strict=True))
            found[path] = Prediction(path, names)
    return [found[path] for path in paths]
