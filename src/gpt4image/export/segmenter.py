"""Segmentation models: exported forms, compared with the trained model, and masks for image files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from gpt4image.core.errors import ImageError
from gpt4image.core.files import atomic_write
from gpt4image.export.detector import COLOURS, free_place, write_weights
from gpt4image.export.forms import export_onnx
from gpt4image.export.measure import Parity, compare_logits
from gpt4image.images.decode import EncodedImage
from gpt4image.images.masks import is_background
from gpt4image.train.annotated_inputs import BoxView, plain_view
from gpt4image.train.family import SEGMENTERS
from gpt4image.train.segmenter import Segmenter
from gpt4image.train.transforms import Normalization

if TYPE_CHECKING:
    from gpt4image.core.workdir import ExportLayout
    from gpt4image.train.run import TrainedRun

OVERLAY = 0.5  # opacity of a mask that is drawn over its image


class Logits(nn.Module):
    """A segmentation model with the output of its ONNX form: the logits of the pixels.

    Args:
        model: the model.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C, S, S] for images [B, 3, S, S]."""
        return self.model.logits(images)


def export_segmenter(run: TrainedRun, model: nn.Module, layout: ExportLayout, sample: Tensor) -> Parity:
    """Write weights and configuration, and load them back; for the arguments see `export_detector`."""
    assert isinstance(model, Segmenter)
    content = write_weights(run, model, layout, SEGMENTERS)
    return compare_logits("safetensors", Logits(model), Logits(load_segmenter(content, layout.weights)), sample)


def export_onnx_segmenter(model: nn.Module, path: Path, sample: Tensor) -> Parity:
    """Write an ONNX graph from images to the logits of their pixels. ExportError if that is not possible."""
    assert isinstance(model, Segmenter)
    return export_onnx(Logits(model).eval(), path, sample)


def load_segmenter(config: Mapping[str, Any], weights: Path) -> Segmenter:
    """Build an exported segmentation model from its configuration and weights."""
    names = config["architecture"], config["num_classes"], config["image_size"]
    model = SEGMENTERS.restore(*names, config["model_args"])
    model.load_state_dict(load_file(weights))
    assert isinstance(model, Segmenter)
    return model.eval()


@dataclass(frozen=True)
class Segmented:
    """The mask of an image file.

    Attributes:
        path: the file.
        mask: the class of each pixel of the image, uint8 [H, W]; None if the file cannot be read.
        sure: mean probability of the pixels' classes.
        error: why the file cannot be read.
    """

    path: Path
    mask: np.ndarray | None = None
    sure: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class DeployedSegmenter:
    """An exported segmentation model: network, class names, and the preparation of its images."""

    network: Segmenter
    classes: tuple[str, ...]
    view: BoxView
    normalize: Normalization

    @classmethod
    def load(cls, config: Mapping[str, Any], weights: Path) -> DeployedSegmenter:
        """Load an exported model from its configuration and weights."""
        prepared = config["pretrained_cfg"]
        network = load_segmenter(config, weights)
        return cls(network, tuple(config["label_names"]), plain_view(prepared), Normalization.of(prepared))

    @property
    def values(self) -> list[int]:
        """The value of each class in mask files: its number, or its name if the classes are named by mask values."""
        named = [int(name) if name.isdecimal() else -1 for name in self.classes]
        return named if all(0 <= value < 255 for value in named) else list(range(len(self.classes)))

    @torch.no_grad()
    def segment(self, files: Sequence[tuple[Path, str]], max_pixels: int) -> Iterator[Segmented]:
        """Yield the masks of one batch of image files, each given with the reason if it is known to be unreadable."""
        for path, fault in files:
            if fault:
                yield Segmented(path, error=fault)
                continue
            try:
                image = EncodedImage(path.read_bytes(), str(path), max_pixels)
                pixels = self.view(image, ())
            except ImageError as error:
                yield Segmented(path, error=str(error).removeprefix(f"{path}: "))
            except OSError as error:
                yield Segmented(path, error=f"cannot be read ({error.strerror or error})")
            else:
                (logits,) = self.network.logits(self.normalize(pixels[None]))
                yield Segmented(path, *resized_mask(logits, image.size))


def resized_mask(logits: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Return a mask of an image's size, uint8 [H, W], and the mean probability of its classes.

    Args:
        logits: [C, S, S] of the image padded to a square.
        size: width and height of the image.
    """
    (width, height), side = size, logits.shape[-1]
    inner = [max(1, round(side * length / max(size))) for length in (height, width)]
    own = logits[:, : inner[0], : inner[1]]
    best, found = torch.full((height, width), -torch.inf), torch.zeros((height, width), dtype=torch.uint8)
    for label, each in enumerate(own):  # one at a time: all at once would fill the memory if images are large
        large = F.interpolate(each[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        found[large > best] = label
        best = torch.maximum(best, large)
    return found.numpy(), float(own.softmax(dim=0).amax(dim=0).mean())


def write_mask(folder: Path, found: Segmented, values: Sequence[int], taken: set[str]) -> None:
    """Write a mask as a PNG of indices with a palette, under the name of its image; write nothing if it has no mask.

    Args:
        folder: the folder.
        found: the mask.
        values: value of each class.
        taken: names of files that were already written; further images of the same name get a number at the end.
    """
    from PIL import Image

    if found.mask is None:
        return
    target = free_place(folder, found.path, taken)
    picture = Image.fromarray(np.array(values, np.uint8)[found.mask]).convert("P")
    picture.putpalette([part for index in range(256) for part in colour_of(index)])
    picture.save(target)


def write_class_names(folder: Path, classes: Sequence[str], values: Sequence[int]) -> None:
    """Write `classes.txt` with one name per line, from index 0, unless the mask values are themselves the names."""
    if list(values) == list(range(len(classes))):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "classes.txt") as file:
            file.write("".join(f"{name}\n" for name in classes).encode())


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the colour of a class in palettes and overlays; black for the first.

    >>> colour_of(0), colour_of(1)
    ((0, 0, 0), (31, 119, 180))
    """
    if index == 0:
        return 0, 0, 0
    code = COLOURS[(index - 1) % len(COLOURS)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def write_overlay(folder: Path, found: Segmented, classes: Sequence[str], max_pixels: int, taken: set[str]) -> None:
    """Write a copy of an image overlaid with its mask, except the background, as PNG; see `write_mask`."""
    from PIL import Image

    if found.mask is None:
        return
    target = free_place(folder, found.path, taken)
    picture = EncodedImage(found.path.read_bytes(), str(found.path), max_pixels).decode()
    colours = np.array([colour_of(index) for index in range(256)], np.uint8)[found.mask]
    blended = Image.blend(picture, Image.fromarray(colours), OVERLAY)
    shown = np.array([not is_background(name) for name in classes])[found.mask]
    Image.composite(blended, picture, Image.fromarray(shown.astype(np.uint8) * 255)).save(target)
