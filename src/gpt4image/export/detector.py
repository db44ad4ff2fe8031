"""Detectors: exported forms, compared with the trained detector, and predictions for image files."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpt4image.core.errors import ConfigError, ExportError, ImageError, first_line
from gpt4image.core.files import atomic_write, write_json
from gpt4image.export.forms import remove_notes
from gpt4image.export.measure import Parity
from gpt4image.images.decode import EncodedImage
from gpt4image.train.annotated_inputs import BoxView, plain_view
from gpt4image.train.backbone import apart
from gpt4image.train.detection.detector import COLUMNS, Detector
from gpt4image.train.family import DETECTORS, OnMaps
from gpt4image.train.transforms import Normalization

if TYPE_CHECKING:
    from PIL import Image

    from gpt4image.core.workdir import ExportLayout
    from gpt4image.images.table import ImageTable
    from gpt4image.train.run import TrainedRun

FLIPS = 10  # one in this many images may keep a different one of two overlapping boxes with nearly equal scores
COMPARED = 0.05  # lowest score of detections that are compared; below, tiny differences change their order
OUTPUTS = ("boxes", "labels", "scores")
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b")

Run = Callable[[Tensor], Tensor]
"""Maps images [N, 3, S, S] to detections [N, K, 6], see `Detector.forward`."""


def sample_inputs(run: TrainedRun, images: ImageTable, most: int) -> Tensor:
    """Return up to `most` real images [N, 3, S, S], prepared for the detector; test images first."""
    view, normalize = plain_view(run.preprocessing), Normalization.of(run.preprocessing)
    rows = np.concatenate([images.split(split) for split in ("test", "validation", "train")])
    return normalize(torch.stack([view(images.encoded(int(row)), ()) for row in rows[:most]]))


def export_detector(run: TrainedRun, model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write weights and configuration, and load them back.

    Args:
        run: the run.
        model: its detector.
        layout: the files to write.
        sample: images [N, 3, S, S].
    """
    thresholds = [*run.thresholds, *[0.5] * (len(run.classes) - len(run.thresholds))]
    content = write_weights(run, model, layout, DETECTORS, thresholds=thresholds)
    return compare_detections("safetensors", model, load_detector(content, layout.weights), sample)


def write_weights(
    run: TrainedRun, model: nn.Module, layout: ExportLayout, family: OnMaps, **more: object
) -> dict[str, Any]:
    """Write the weights and the configuration of a model on a backbone's maps; return the configuration.

    Args:
        run: the run.
        model: its model.
        layout: the files to write.
        family: its family.
        more: further fields of the configuration.
    """
    save_file(apart(model.state_dict()), layout.weights)
    body = model.body.pretrained_cfg["architecture"]  # type: ignore[union-attr,index] # not the name on a hub
    content = {
        "task": run.task,
        "architecture": f"{family.kind(run.recipe.backbone)}:{body}",
        "image_size": run.recipe.image_size,
        "num_classes": len(run.classes),
        "label_names": list(run.classes),
        "model_args": family.options(run.recipe),
        "pretrained_cfg": run.preprocessing,
        **more,
    }
    write_json(layout.config, content)
    shutil.copymode(layout.config, layout.weights)
    return content


def load_detector(config: Mapping[str, Any], weights: Path) -> Detector:
    """Build an exported detector from its configuration and weights."""
    names = config["architecture"], config["num_classes"], config["image_size"]
    model = DETECTORS.restore(*names, config["model_args"])
    model.load_state_dict(load_file(weights))
    assert isinstance(model, Detector)
    return model.eval()


class OnnxForm(nn.Module):
    """A detector with the outputs of its ONNX form: boxes, labels and scores of one image.

    Args:
        model: the detector.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return boxes [k, 4] in pixels of the input, labels int64 [k] and scores [k] for an image [1, 3, S, S]."""
        (found,) = self.model.detect(images)
        return tuple(found[name] for name in OUTPUTS)


def export_onnx_detector(model: nn.Module, path: Path, sample: Tensor) -> Parity:
    """Write an ONNX graph of one image, and run it with ONNX Runtime on images [N, 3, S, S].

    torch's older exporter writes it, because the steps of torchvision's detectors depend on the number of boxes.

    Raises:
        ExportError: the detector cannot be exported.
    """
    assert isinstance(model, Detector)
    axes = {name: {0: "detections"} for name in OUTPUTS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of tracing: the comparison finds wrong constants
            torch.onnx.export(
                OnnxForm(model).eval(),
                (sample[:1],),
                str(path),
                input_names=["images"],
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
                dynamo=False,
            )
        remove_notes(path)
        return compare_detections("ONNX", model, onnx_runner(path, model.size), sample, len(sample) // FLIPS)
    except Exception as error:  # each model fails in its own way, deep inside torch or ONNX Runtime
        raise ExportError(f"The detector cannot be exported to ONNX ({first_line(error)}).") from None


def onnx_runner(path: Path, size: int) -> Run:
    """Return a function that runs an ONNX graph image by image and returns detections like the detector."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        rows = []
        for image in images:
            boxes, labels, scores = session.run(list(OUTPUTS), {"images": image[None].numpy()})
            rows.append(np.concatenate([labels[:, None], boxes / size, scores[:, None]], axis=1).astype(np.float32))
        most = max(map(len, rows), default=0)
        packed = np.full((len(rows), most, COLUMNS), [-1.0, 0, 0, 0, 0, 0], np.float32)
        for filled, row in zip(packed, rows, strict=True):
            filled[: len(row)] = row
        return torch.from_numpy(packed)

    return run


@torch.no_grad()
def compare_detections(form: str, model: nn.Module, exported: Run, sample: Tensor, spared: int = 0) -> Parity:
    """Compare the detections of an exported form with those of the trained detector on images [N, 3, S, S].

    Each detection is compared with the nearest one of its class in the other form, by its score and its corners (as
    shares of the input's side); the difference of an image is the largest of these, infinite if there is no such
    detection. Detections with a score below `COMPARED` do not count. Those with the same score may come in any order.
    Of two overlapping boxes with nearly the same score, another runtime may keep the other one, so the `spared` most
    different images do not count.
    """
    both = [found.reshape(len(sample), -1, COLUMNS) for found in (model(sample), exported(sample))]
    differences, same = [], 0
    for expected, found in zip(*both, strict=True):
        a, b = (rows[(rows[:, 0] >= 0) & (rows[:, 5] >= COMPARED)] for rows in (expected, found))
        same += sorted(a[:, 0].tolist()) == sorted(b[:, 0].tolist())
        largest = 0.0 if len(a) == len(b) else float("inf")
        if len(a) == len(b) > 0:
            apart = (a[:, None, 1:] - b[None, :, 1:]).abs().amax(dim=2)  # [k, k]
            apart = apart.masked_fill(a[:, None, 0] != b[None, :, 0], float("inf"))
            largest = max(float(apart.amin(dim=0).max()), float(apart.amin(dim=1).max()))
        differences.append(largest)
    return Parity(form, len(sample), sorted(differences)[-1 - spared], same)


class Found(NamedTuple):
    """An object that was found.

    Attributes:
        name: its class.
        score: from 0 to 1.
        box: left, top, right and bottom in pixels of the image.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Detections:
    """The objects found in an image file.

    Attributes:
        path: the file.
        size: width and height of the image; None if the file cannot be read.
        objects: objects with a score of at least the threshold of their class, the highest score first.
        error: why the file cannot be read.
    """

    path: Path
    size: tuple[int, int] | None = None
    objects: tuple[Found, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class DeployedDetector:
    """An exported detector: network, class names with their thresholds, and the preparation of its images."""

    network: Detector
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    view: BoxView
    normalize: Normalization

    @classmethod
    def load(cls, config: Mapping[str, Any], weights: Path) -> DeployedDetector:
        """Load an exported detector from its configuration and weights."""
        prepared = config["pretrained_cfg"]
        return cls(
            load_detector(config, weights),
            tuple(config["label_names"]),
            tuple(map(float, config["thresholds"])),
            plain_view(prepared),
            Normalization.of(prepared),
        )

    @torch.no_grad()
    def detect(self, files: Sequence[tuple[Path, str]], max_pixels: int) -> list[Detections]:
        """Find the objects in one batch of image files, each given with the reason if it is known to be unreadable."""
        found = [Detections(path, error=fault or None) for path, fault in files]
        inputs, sizes = [], {}
        for at, (path, fault) in enumerate(files):
            try:
                if not fault:
                    image = EncodedImage(path.read_bytes(), str(path), max_pixels)
                    inputs.append(self.view(image, ()))
                    sizes[at] = image.size
            except ImageError as error:
                found[at] = Detections(path, error=str(error).removeprefix(f"{path}: "))
            except OSError as error:
                found[at] = Detections(path, error=f"cannot be read ({error.strerror or error})")
        if inputs:
            packed = self.network(self.normalize(torch.stack(inputs))).view(len(inputs), -1, COLUMNS)
            for (at, size), rows in zip(sizes.items(), packed.tolist(), strict=True):
                objects = [self._object(row, size) for row in rows if row[0] >= 0 and row[5] >= self._least(row)]
                found[at] = Detections(files[at][0], size, tuple(objects))
        return found

    def _least(self, row: Sequence[float]) -> float:
        return self.thresholds[int(row[0])]

    def _object(self, row: Sequence[float], size: tuple[int, int]) -> Found:
        """Return a detection [6] as an object in an image of the given width and height."""
        longer = max(size)
        left, top, right, bottom = (min(max(edge * longer, 0.0), size[n % 2]) for n, edge in enumerate(row[1:5]))
        return Found(self.classes[int(row[0])], row[5], (left, top, right, bottom))


def write_coco(path: Path, found: Iterable[Detections], classes: Sequence[str]) -> None:
    """Write detections as COCO annotations (JSON), each with its score; images that cannot be read are left out.

    Args:
        path: the file.
        found: the detections.
        classes: names of all classes, which are numbered from 1.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for each in found:
        if each.size is None:
            continue
        width, height = each.size
        images.append({"id": len(images) + 1, "file_name": str(each.path), "width": width, "height": height})
        for found_object in each.objects:
            left, top, right, bottom = (round(edge, 2) for edge in found_object.box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": numbers[found_object.name],
                    "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                    "area": round((right - left) * (bottom - top), 2),
                    "iscrowd": 0,
                    "score": round(found_object.score, 4),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def draw_objects(picture: Image.Image, objects: Iterable[Found], classes: Sequence[str]) -> Image.Image:
    """Return a copy of an image with boxes, and the class and score of each above it."""
    from PIL import ImageDraw, ImageFont

    drawn = picture.convert("RGB")
    pen, width = ImageDraw.Draw(drawn), max(1, round(max(picture.size) / 300))
    font = ImageFont.load_default(size=max(10, max(picture.size) / 45))
    for each in objects:
        colour = COLOURS[list(classes).index(each.name) % len(COLOURS)]
        pen.rectangle(each.box, outline=colour, width=width)
        text, (left, top, *_) = f"{each.name} {each.score:.2f}", each.box
        box = pen.textbbox((left, top), text, font=font)
        up = min(box[3] - top + 2 * width, top)  # inside the box if there is no room above
        frame = (box[0] - width, box[1] - up - width, box[2] + width, box[3] - up + width)
        pen.rectangle(frame, fill=colour)
        pen.text((left, top - up), text, fill="white", font=font)
    return drawn


def write_drawn(folder: Path, found: Detections, classes: Sequence[str], max_pixels: int, taken: set[str]) -> None:
    """Write a copy of an image with its detections into a folder, as PNG; nothing for one that cannot be read.

    Args:
        folder: the folder.
        found: the detections.
        classes: names of all classes.
        max_pixels: largest width x height to decode.
        taken: names of files that were already written; further images of the same name get a number at the end.
    """
    if found.size is None:
        return
    target = free_place(folder, found.path, taken)
    picture = EncodedImage(found.path.read_bytes(), str(found.path), max_pixels).decode()
    draw_objects(picture, found.objects, classes).save(target)


def free_place(folder: Path, image: Path, taken: set[str]) -> Path:
    """Return the path of a PNG file with an image's name in a folder, which is created if necessary.

    Args:
        folder: the folder, already checked by `check_folders`.
        image: the image.
        taken: names of files that were already written; further images of the same name get a number at the end.
    """
    names = chain([image.stem], (f"{image.stem}-{number}" for number in count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"


def check_folders(folders: Mapping[str, Path], images: Iterable[Path]) -> None:
    """Raise ConfigError if the files written to these folders, by setting, would replace images or each other."""
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise ConfigError(f"{' and '.join(folders)} write files of the same names: name a folder for each.")
    given = {parent.resolve() for parent in {image.parent for image in images}}
    for option, folder in folders.items():
        if folder.resolve() in given:
            raise ConfigError(f"{folder} holds images that could be overwritten: name another folder for {option}.")
