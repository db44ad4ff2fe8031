"""Predictions of an exported model for image files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gpt4image.core.console import doing, say
from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.core.files import check_fetched, read_json
from gpt4image.core.format import counted
from gpt4image.core.workdir import ExportLayout
from gpt4image.images import MAX_PIXELS, decode
from gpt4image.images.clips import FrameChoice
from gpt4image.images.sources.folders import inspect_file, is_image_name, walk
from gpt4image.tasks import TASKS
from gpt4image.train.backbone import create_model
from gpt4image.train.transforms import Transform, evaluation_transform

if TYPE_CHECKING:
    from gpt4image.export.detector import DeployedDetector, Detections
    from gpt4image.export.segmenter import DeployedSegmenter, Segmented

FIELDS = ("architecture", "num_classes", "label_names", "model_args", "pretrained_cfg")
"""Fields in the configuration of every exported model."""
NO_NUMBERS = "the model's output is not a number: its training may have failed"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        path: the image.
        answers: the most probable classes with their probabilities, in descending order; for a model of several labels
            per image all classes, in their order. Empty if the image cannot be read.
        error: why it cannot be read.
        labels: for a model of several labels per image, the labels whose probability reaches their threshold.
    """

    path: Path
    answers: tuple[tuple[str, float], ...]
    error: str | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DeployedModel:
    """An exported model: network, class names, and the preprocessing of its images.

    `thresholds` are the probabilities from which labels are predicted, if an image may have several; else None.
    `frames` is the choice of frames that a model of clips sees; None for a model of still images.
    """

    network: nn.Module
    classes: tuple[str, ...]
    transform: Transform
    thresholds: tuple[float, ...] | None = None
    frames: FrameChoice | None = None

    @classmethod
    def load(cls, folder: Path) -> DeployedModel:
        """Load an exported model. ConfigError if the folder holds none."""
        layout = ExportLayout(folder)
        layout.require()
        config = read_config(layout)
        if (family := family_of(config)) in ("detector", "segmenter"):
            other = "detect_objects" if family == "detector" else "segment_images"
            raise ConfigError(f"{folder} holds a {family}: use {other}, or gpt4image predict.")
        frames = FrameChoice.from_name(config["frames"]) if "frames" in config else None
        if frames is not None:
            from gpt4image.export.clip_model import open_clip_model

            network = open_clip_model(config, layout.weights)
        else:
            network = create_model(
                config["architecture"],
                pretrained=False,
                num_classes=config["num_classes"],
                checkpoint_path=str(layout.weights),
                **config["model_args"],
            )
        keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        transform = evaluation_transform({key: config["pretrained_cfg"][key] for key in keys})
        thresholds = config.get("thresholds")
        limits = None if thresholds is None else tuple(map(float, thresholds))
        return cls(network.eval(), tuple(config["label_names"]), transform, limits, frames)

    def predict(self, files: Sequence[ImageFile], top: int, max_pixels: int) -> list[Prediction]:
        """Predict one batch of images; an unreadable one gets its error."""
        found = []
        readable = {}
        for at, file in enumerate(files):
            reason = file.fault
            try:
                if not reason:
                    readable[at] = self._input(file.path, max_pixels)
            except ImageError as error:
                reason = str(error).removeprefix(f"{file.path}: ")
            except OSError as error:
                reason = f"cannot be read ({error.strerror or error})"
            found.append(Prediction(file.path, (), reason or None))
        if readable:
            with torch.no_grad():
                logits = self.network(torch.stack(list(readable.values())))  # [B, C]
            if self.thresholds is not None:
                return self._label(found, list(readable), logits.sigmoid())
            probabilities = logits.softmax(dim=1)
            best = probabilities.topk(min(top, len(self.classes)), dim=1)
            for at, values, labels in zip(readable, best.values.tolist(), best.indices.tolist(), strict=True):
                if any(map(math.isnan, values)):
                    found[at] = replace(found[at], error=NO_NUMBERS)
                    continue
                names = [self.classes[label] for label in labels]
                found[at] = Prediction(files[at].path, tuple(zip(names, values, strict=True)))
        return found

    def _input(self, path: Path, max_pixels: int) -> Tensor:
        """Return an image [3, H, W], or the frames of a clip [T, 3, H, W], as input of the network."""
        if self.frames is not None:
            from gpt4image.export.clip_model import read_input

            return read_input(path, self.frames, self.transform, max_pixels)
        return self.transform(decode(path.read_bytes(), str(path), max_pixels))

    def _label(self, found: list[Prediction], places: list[int], probabilities: Tensor) -> list[Prediction]:
        """Fill in the probability of every class, in order, and the labels that reach their thresholds.

        Args:
            found: predictions without answers.
            places: positions of those with probabilities.
            probabilities: [B, C].
        """
        for at, row in zip(places, probabilities.tolist(), strict=True):
            if any(map(math.isnan, row)):
                found[at] = replace(found[at], error=NO_NUMBERS)
                continue
            chosen = zip(self.classes, row, self.thresholds or (), strict=True)
            labels = tuple(name for name, probability, least in chosen if probability >= least)
            found[at] = Prediction(found[at].path, tuple(zip(self.classes, row, strict=True)), None, labels)
        return found


def read_config(layout: ExportLayout) -> Mapping[str, Any]:
    """Return the configuration of an exported model, and check its files, which may have been copied incompletely.

    Raises:
        ConfigError: a file differs from what an export writes; the message names it.
    """
    for path in (layout.config, layout.weights):
        if path.exists():
            check_fetched(path, ConfigError)
    config: Mapping[str, Any] = read_json(layout.config)
    missing = next((name for name in FIELDS if name not in config), "") if isinstance(config, Mapping) else "all"
    names = [] if missing else config["label_names"]
    if missing or (family_of(config) == "classifier" and len(names) != config["num_classes"]):
        wrong = f"lacks {missing}" if missing else f"names {len(names)} of {config['num_classes']} classes"
        raise ConfigError(f"{layout.config} {wrong}: it is not as gpt4image export writes it. Export the run again.")
    if layout.weights.exists():
        try:
            with safe_open(layout.weights, "pt"):
                pass
        except SafetensorError as error:
            raise ConfigError(f"{layout.weights} cannot be read ({error}). Copy it again, or export the run.") from None
    return config


def count_classes(model: Path) -> int:
    """Return the number of classes of an exported model."""
    return len(read_config(ExportLayout(model))["label_names"])


def label_names(model: Path) -> tuple[str, ...] | None:
    """Return the classes of an exported model of several labels per image; None for any other folder or model."""
    path = ExportLayout(model).config
    config = read_config(ExportLayout(model)) if path.exists() else {}
    several = config.get("thresholds") is not None and family_of(config) not in ("detector", "segmenter")
    return tuple(config["label_names"]) if several else None


def family_of(config: Mapping[str, Any]) -> str:
    """Return the family of an exported model, given its configuration."""
    return TASKS.load(config["task"]).family if config.get("task") in TASKS else "classifier"


def _read_config(model: Path, family: str) -> tuple[Mapping[str, Any], Path] | None:
    """Return configuration and weights of an exported model of a family; None for a folder of anything else."""
    layout = ExportLayout(model)
    if not (layout.config.exists() and layout.weights.exists()):
        return None
    config = read_config(layout)
    return (config, layout.weights) if family_of(config) == family else None


def open_detector(model: Path) -> DeployedDetector | None:
    """Load an exported detector; None for a folder of anything else."""
    found = _read_config(model, "detector")
    if found is None:
        return None
    from gpt4image.export.detector import DeployedDetector  # torchvision takes a second to import

    return DeployedDetector.load(*found)


def open_segmenter(model: Path) -> DeployedSegmenter | None:
    """Load an exported segmentation model; None for a folder of anything else."""
    found = _read_config(model, "segmenter")
    if found is None:
        return None
    from gpt4image.export.segmenter import DeployedSegmenter

    return DeployedSegmenter.load(*found)


def segment_images(
    segmenter: DeployedSegmenter, sources: Sequence[Path], *, batch_size: int = 32, max_pixels: int = MAX_PIXELS
) -> Iterator[Segmented]:
    """Find the class of each pixel of images; for the arguments see `predict_images`.

    Raises:
        DataError: there is no image.
    """
    files = named_files(sources)
    batches = (files[start : start + batch_size] for start in range(0, len(files), batch_size))
    return chain.from_iterable(segmenter.segment(batch, max_pixels) for batch in batches)


def detect_objects(
    detector: DeployedDetector, sources: Sequence[Path], *, batch_size: int = 32, max_pixels: int = MAX_PIXELS
) -> Iterator[Detections]:
    """Find the objects in images with an exported detector; for the arguments see `predict_images`.

    Raises:
        DataError: there is no image.
    """
    files = named_files(sources)
    batches = (files[start : start + batch_size] for start in range(0, len(files), batch_size))
    return chain.from_iterable(detector.detect(batch, max_pixels) for batch in batches)


def predict_images(
    model: str | Path,
    sources: Sequence[str | Path],
    *,
    top: int = 3,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Prediction]:
    """Predict the classes of images with an exported model; an unreadable or missing image gets its error.

    The model is loaded and the images are listed before this returns.

    Args:
        model: folder of the exported model.
        sources: image files, or folders, in which the files are used that training recognises as images. For a model of
            clips, video files, folders of frames, or folders of these.
        top: largest number of classes to return per image; a model of several labels returns all.
        batch_size: images per batch.
        max_pixels: largest width x height to decode.

    Raises:
        ConfigError: the folder holds no exported model.
        DataError: there is no image.
    """
    model = Path(model)
    layout = ExportLayout(model)
    layout.require()
    files = named_files([Path(source) for source in sources], clips="frames" in read_config(layout))
    with doing("Loading the model"):
        deployed = DeployedModel.load(model)
    batches = (files[start : start + batch_size] for start in range(0, len(files), batch_size))
    return chain.from_iterable(deployed.predict(batch, top, max_pixels) for batch in batches)


class ImageFile(NamedTuple):
    """An image file, and the reason if it is known to be unreadable."""

    path: Path
    fault: str


def named_files(sources: Sequence[Path], *, clips: bool = False) -> list[ImageFile]:
    """Return the files of `image_files`, or for a model of clips those of `clip_files`. DataError if there are none."""
    others: list[Path] = []
    if clips:
        from gpt4image.export.clip_model import clip_files

        files = [ImageFile(*found) for found in clip_files(sources, others)]
    else:
        files = list(image_files(sources, others))
    kind = "clip" if clips else "image"
    if others:
        say(f"left out: {counted(len(others), 'file')}, such as {others[0]} (not {'a clip' if clips else 'an image'})")
    if not files:
        named = ", ".join(map(str, sources)) or "nothing"
        raise DataError(f"No {kind}s in {named}. Name {kind}s, or folders of {kind}s.")
    return files


def image_files(sources: Iterable[Path], others: list[Path]) -> Iterator[ImageFile]:
    """Yield the named files, and those in the named folders that training recognises as images, in order of names.

    Args:
        sources: files and folders.
        others: list to which the other files in these folders are added.
    """
    for source in sources:
        if source.is_dir():
            inside = sorted(walk(source), key=lambda found: found.path)
            others += [source / found.path for found in inside if not is_image_name(found.path)]
            yield from (ImageFile(source / found.path, found.fault) for found in inside if is_image_name(found.path))
        else:
            named = inspect_file(source, str(source), "")
            yield ImageFile(Path(named.path), named.fault)
