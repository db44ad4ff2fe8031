"""Deployment: export a trained model, and predict with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import WORK, DataOptions, OutputOptions, PushOptions
from gpt4image.core.validation import Count, check_fields

if TYPE_CHECKING:
    from gpt4image.export.detector import DeployedDetector
    from gpt4image.export.segmenter import DeployedSegmenter

PAIR = ("class", "probability")


@dataclass(frozen=True)
class Export(OutputOptions):
    """Export a run's model as timm weights and ONNX, with a model card.

    Compares the logits of each exported model with those of the trained model. See also: gpt4image predict.
    """

    SHORT: ClassVar = (
        "run",
        "out",
        "onnx",
        "int8",
        "torch-export",
        "benchmark",
        "push",
        "private",
        "tolerance",
        "work",
    )
    EXAMPLE: ClassVar = "photos --run gpt4image-work/runs/described-0 --out model"
    KEYS: ClassVar = {
        "model": "folder of the exported model",
        "parity": "for each form: images, largest difference between logits, images with the same answer",
        "int8": "accuracy (or the score of another task) before and after quantisation; null without --int8",
        "latencies": "for each form and batch: median and quartiles in milliseconds",
        "pushed": "address on the Hub; null without --push",
    }
    source: DataOptions
    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Folder of the run, such as gpt4image-work/runs/described-0."""
    out: Path
    """Folder for the exported model."""
    onnx: bool = True
    """Also export ONNX."""
    int8: bool = False
    """Also quantise the ONNX model to 8-bit integers, and print its accuracy on the test images before and after."""
    torch_export: bool = False
    """Also export a program for torch.export.load."""
    benchmark: bool = False
    """Measure the speed of each exported form on this machine's processor."""
    tolerance: float = 1e-3
    """Largest allowed difference between logits."""
    work: Path = WORK
    """Work directory of the images."""
    hub: PushOptions = field(default_factory=PushOptions)

    def run(self) -> None:
        """Export, print how each form compares with the trained model, and push if requested."""
        from gpt4image.core.console import result, show
        from gpt4image.core.hub_push import hub_token, push_folder
        from gpt4image.core.workdir import ExportLayout, WorkDir
        from gpt4image.train.identity import require_finished

        require_finished(self.run_folder)  # before the work and before slow imports
        ExportLayout(self.out).require_free()
        if self.hub.push:
            hub_token(self.hub.push)
        from gpt4image.export import export_model
        from gpt4image.images.open import open_images
        from gpt4image.train.run import open_run

        found = export_model(
            open_run(self.run_folder),
            open_images(self.source, WorkDir(self.work), whole=True),
            self.out,
            onnx=self.onnx,
            int8=self.int8,
            torch_export=self.torch_export,
            benchmark=self.benchmark,
            tolerance=self.tolerance,
            repo=self.hub.push,
        )
        show("\n".join([*found.lines(), f"model: {self.out}"]))
        if place := push_folder(self.out, self.hub, kind="model", old=["model.*"]):
            show(f"pushed: {place}")
        result(model=self.out, parity=found.parity, int8=found.int8, latencies=found.latencies, pushed=place)


@dataclass(frozen=True)
class Predict(OutputOptions):
    """Classify images with an exported model, or find objects or the class of each pixel in them.

    Prints a table with a row for each image: its path, the classes with their probabilities, and the reason if it could
    not be read. With several labels per image: its path, the predicted labels, and the probability of each class.

    A detector's row has the path, the objects found, their number, and the highest score. The boxes are in the output
    of --json, in the file of --coco, and on the pictures of --drawn.

    A segmentation model's row has the path, the classes with their shares of the pixels, and the mean probability. The
    masks are in the folder of --masks, and on the pictures of --drawn.

    Exit status: 0 if every image is classified, 3 if some could not be read, 1 if none could.
    """

    SHORT: ClassVar = ("top", "csv", "coco", "masks", "drawn", "max-pixels")
    EXAMPLE: ClassVar = "model photos/new"
    KEYS: ClassVar = {
        "path": "path of the image",
        "predictions": "the most likely classes: class, probability; with several labels per image, all classes; for a "
        "detector, the objects: class, probability, box (left, top, right, bottom in pixels); for a segmentation "
        "model, the classes: class, share of the pixels",
        "labels": "with several labels per image, the predicted labels; otherwise null",
        "error": "why the image could not be read, or null",
    }
    model: tyro.conf.Positional[Path]
    """Folder of the exported model."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    top: Count = 3
    """Number of classes to print. A model with several labels per image prints all of them."""
    csv: bool = False
    """Print CSV instead of tab-separated values."""
    coco: Path | None = None
    """For a detector: write the objects to this file, as COCO annotations with scores (JSON)."""
    masks: Path | None = None
    """For a segmentation model: write the mask of each image to this folder, as a PNG of indices with a palette."""
    drawn: Path | None = None
    """For a detector or a segmentation model: draw what is found on copies of the images, in this folder."""
    json: bool = field(default=False, kw_only=True)
    """Print one JSON object per image and line instead of the table."""
    max_pixels: Count = 89_478_485
    """Largest width x height to decode."""
    batch_size: Count = 32
    """Number of images per batch."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.csv and self.json:
            raise ConfigError("csv and json write the same table (--csv, --json): choose one.")

    def run(self) -> int:
        """Print the table as it grows, and return the exit status."""
        from gpt4image.cli.rows import GrowingTable
        from gpt4image.core.console import result, say
        from gpt4image.core.format import counted
        from gpt4image.core.workdir import ExportLayout

        ExportLayout(self.model).require()  # before slow imports
        from gpt4image.export import count_classes, label_names, open_detector, open_segmenter, predict_images

        if (segmenter := open_segmenter(self.model)) is not None and self.coco is None:
            return self._segment(segmenter)
        detector = open_detector(self.model)
        if self.masks is not None:
            raise ConfigError(f"masks (--masks) need a segmentation model, and {self.model} is not one.")
        if detector is not None:
            return self._detect(detector)
        if self.coco is not None or self.drawn is not None:
            raise ConfigError(f"coco and drawn (--coco, --drawn) need a detector, and {self.model} is not one.")
        top = min(self.top, count_classes(self.model))
        if self.top > max(top, type(self).top) and label_names(self.model) is None:
            say(f"The model has {counted(top, 'class')}: all are named, not {self.top:,} (--top).", style="yellow")
        settings = {"top": top, "batch_size": self.batch_size, "max_pixels": self.max_pixels}
        counts = {True: 0, False: 0}  # images with and without an error
        outcomes = predict_images(self.model, self.images, **settings)
        names, table = label_names(self.model), GrowingTable(self.csv)
        paired = table.is_aligned and names is None
        likeliest = [[f"{name}_{n}" for name in (PAIR[:1] if paired else PAIR)] for n in range(1, top + 1)]
        named = likeliest if names is None else [["labels", *names]]
        rows = [_row("path", named, named, "error", paired)]
        while batch := list(islice(outcomes, self.batch_size)):
            for found in batch:
                counts[found.error is not None] += 1
                predictions = [dict(zip(PAIR, answer, strict=True)) for answer in found.answers]
                result(path=found.path, predictions=predictions, labels=found.labels, error=found.error)
                answers = [[name, f"{probability:.4f}"] for name, probability in found.answers]
                if found.labels is not None:
                    answers = [[", ".join(found.labels), *(probability for _, probability in answers)]]
                rows.append(_row(str(found.path), answers, named, found.error or "", paired))
            table.write(rows)
            rows = []
        return _exit_status(counts)

    def _detect(self, detector: DeployedDetector) -> int:
        """Print the objects that a detector finds, and write the requested files."""
        from gpt4image.cli.rows import GrowingTable
        from gpt4image.core.console import result
        from gpt4image.export import detect_objects
        from gpt4image.export.detector import write_coco, write_drawn
        from gpt4image.tasks.detection import in_words

        self._check_folders()
        counts, drawn = {True: 0, False: 0}, set[str]()
        outcomes = detect_objects(detector, self.images, batch_size=self.batch_size, max_pixels=self.max_pixels)
        table, rows, everything = GrowingTable(self.csv), [["path", "objects", "count", "surest", "error"]], []
        while batch := list(islice(outcomes, self.batch_size)):
            for found in batch:
                counts[found.error is not None] += 1
                objects = [{"class": each.name, "probability": each.score, "box": each.box} for each in found.objects]
                result(path=found.path, predictions=objects, labels=None, error=found.error)
                numbers = [detector.classes.index(each.name) for each in found.objects]
                words = [in_words(numbers, detector.classes), str(len(numbers))] if found.error is None else ["", ""]
                surest = f"{found.objects[0].score:.4f}" if found.objects else ""
                rows.append([str(found.path), *words, surest, found.error or ""])
                if self.drawn is not None:
                    write_drawn(self.drawn, found, detector.classes, self.max_pixels, drawn)
            table.write(rows)
            rows = []
            everything += batch if self.coco is not None else []
        if self.coco is not None:
            write_coco(self.coco, everything, detector.classes)
        return _exit_status(counts)

    def _check_folders(self) -> None:
        """Raise ConfigError if the files to write would replace the images."""
        from gpt4image.export.deployed import named_files
        from gpt4image.export.detector import check_folders

        folders = {"masks (--masks)": self.masks, "drawn (--drawn)": self.drawn}
        if named := {option: folder for option, folder in folders.items() if folder is not None}:
            check_folders(named, [file.path for file in named_files(self.images)])

    def _segment(self, segmenter: DeployedSegmenter) -> int:
        """Print the classes that a segmentation model finds, and write the requested files."""
        import numpy as np

        from gpt4image.cli.rows import GrowingTable
        from gpt4image.core.console import result
        from gpt4image.export import segment_images
        from gpt4image.export.segmenter import write_class_names, write_mask, write_overlay
        from gpt4image.tasks.segmentation import in_shares

        self._check_folders()
        counts, names, drawn = {True: 0, False: 0}, set[str](), set[str]()
        outcomes = segment_images(segmenter, self.images, batch_size=self.batch_size, max_pixels=self.max_pixels)
        table, rows = GrowingTable(self.csv), [["path", "classes", "probability", "error"]]
        if self.masks is not None:
            write_class_names(self.masks, segmenter.classes, segmenter.values)
        while batch := list(islice(outcomes, self.batch_size)):
            for found in batch:
                counts[found.error is not None] += 1
                pixels = np.zeros(0, np.uint8) if found.mask is None else found.mask.ravel()
                shares = np.bincount(pixels, minlength=len(segmenter.classes)) / max(1, len(pixels))
                given = zip(segmenter.classes, shares.tolist(), strict=True)
                predictions = [{"class": name, "share": share} for name, share in given if share]
                result(path=found.path, predictions=predictions, labels=None, error=found.error)
                words = [in_shares(pixels, segmenter.classes), f"{found.sure:.4f}"] if len(pixels) else ["", ""]
                rows.append([str(found.path), *words, found.error or ""])
                if self.masks is not None:
                    write_mask(self.masks, found, segmenter.values, names)
                if self.drawn is not None:
                    write_overlay(self.drawn, found, segmenter.classes, self.max_pixels, drawn)
            table.write(rows)
            rows = []
        return _exit_status(counts)


def _exit_status(counts: dict[bool, int]) -> int:
    """Print how many images could not be read; return the exit status, given the counts with and without an error."""
    from gpt4image.core.console import say
    from gpt4image.core.format import counted

    if counts[True]:
        say(f"{counted(counts[True], 'image')} could not be read; the error of each says why.", "yellow")
    return 0 if not counts[True] else 3 if counts[False] else 1


def _row(path: str, answers: list[list[str]], named: list[list[str]], error: str, paired: bool) -> list[str]:
    """Return the cells of a row; `paired` puts class and probability into one cell, to keep lines short."""
    missing = [[""] * len(cells) for cells in named[len(answers) :]]
    cells = ([" ".join(pair)] if paired else pair for pair in [*answers, *missing])
    return [path, *chain.from_iterable(cells), error]
