"""Open the images that the options name, and report what was found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TypedDict

import numpy as np

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.core.options import WORK, DataOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.corrections import apply_corrections
from gpt4image.images.crops import crop_images
from gpt4image.images.duplicates import Places, drop_leaks, find_duplicates
from gpt4image.images.load import load_images
from gpt4image.images.masks import VOID, decode_mask
from gpt4image.images.sources.detect import near
from gpt4image.images.table import SPLITS, ImageTable

MOST_SHOWN = 5  # names in one line


def open_images(
    options: DataOptions, workdir: WorkDir, *, names_follow: bool = False, whole: bool = False
) -> ImageTable:
    """Load and report the images, and handle images in two splits as the options say.

    Args:
        options: the images.
        workdir: the work directory.
        names_follow: the caller lists rejected files and copies.
        whole: use whole images, even if the options ask for crops.

    Raises:
        DataError: the source or the corrections are unknown or broken, or images are in two splits and `leaks` is fail.
    """
    if options.corrections is not None and not options.corrections.exists():  # reading the images may take long
        raise DataError(f"{options.corrections} does not exist. {near(options.corrections)}".rstrip())
    images = load_images(
        options.data,
        unlabelled=options.unlabelled,
        work=workdir.folder,
        on_bad_image=options.on_bad_image,
        image_column=options.image_column,
        label_column=options.label_column,
        unusual_labels=options.unusual_labels,
        task=options.task,
        label_separator=options.label_separator,
        label_columns=options.label_columns,
        frames=options.frames,
        frame_rule=options.frame_rule,
        frame_side=options.frame_side,
        max_pixels=options.max_pixels,
        validation_share=options.validation_share,
        test_share=options.test_share,
        split_seed=options.split_seed,
    )
    if options.crops is not None and not whole:
        images = crop_images(images, options.crops)
    if options.corrections is not None:
        images = apply_corrections(images, options.corrections)
    if options.leaks != "keep":
        leaked = find_duplicates(images).leaked
        if leaked and options.leaks == "fail":
            places = next(iter(leaked.values()))
            raise DataError(
                f"{counted(len(leaked), 'image')} in more than one split, such as {dict(places)}. Remove them from "
                "one split, or set leaks to drop (--leaks drop)."
            )
        images = drop_leaks(images)
    words = [*options.words(), *(["--work", str(workdir.folder)] if workdir.folder != WORK else [])]
    report_images(images, "" if names_follow else f"gpt4image images {shlex.join(words)}")
    return images


def report_images(images: ImageTable, lister: str = "") -> None:
    """Print the image set in a few lines.

    Args:
        images: the image set.
        lister: the command that lists rejected files and copies; empty if the caller lists them.
    """
    splits = ", ".join(f"{name} {len(images.split(name)):,}" for name in SPLITS)
    say(f"images: {len(images):,} in {counted(len(images.classes), 'class')} ({splits})")
    if images.frames is not None:
        say(f"clips: each image is a clip, {images.frames.words} (--frames, --frame-rule, --frame-side)")
    if images.has_boxes:
        _report_boxes(images)
    _report_labels(images)
    duplicates = find_duplicates(images)
    if duplicates.surplus:
        distinct = f"{len(images) - duplicates.surplus:,} are distinct"
        say(f"duplicates: {counted(duplicates.surplus, 'copy')} of {counted(duplicates.groups, 'image')}; {distinct}")
    if duplicates.leaked:
        say(
            f"leakage: {counted(len(duplicates.leaked), 'image')} in more than one split, which inflates test "
            "results. To drop the copies from the training set, set leaks to drop (--leaks drop).",
            "yellow",
        )
    if duplicates.conflicting:
        say(f"labels: {counted(len(duplicates.conflicting), 'image')} in more than one class", "yellow")
    if images.rejected:
        first = images.rejected[0]
        say(f"left out: {counted(len(images.rejected), 'file')}, such as {first.path} ({first.reason})", "yellow")
    if lister and (duplicates.surplus or images.rejected or images.rejected_boxes):
        say(f"To list them: {lister}")


def _report_boxes(images: ImageTable) -> None:
    """Print how many boxes there are, were left out or were clipped."""
    known = [len(boxes) for boxes in images.boxes() if boxes is not None]
    empty = known.count(0)
    background = f"; {counted(empty, 'image')} without any (background)" if empty else ""
    what = "regions" if images.has_masks else "boxes"
    say(f"{what}: {sum(known):,} in {counted(len(known) - empty, 'image')}{background}")
    unknown = sum(int((boxes[:, 0] < 0).sum()) for boxes in images.boxes() if boxes is not None)
    if unknown:
        say(
            f"boxes: {unknown:,} without a class, hidden in training; descriptions of their crops can provide it "
            "(--crops, --arms text-labels)"
        )
    if images.clipped_boxes:
        say(f"{what}: {images.clipped_boxes:,} clipped at the edge of the picture")
    if images.rejected_boxes:
        first = images.rejected_boxes[0]
        say(
            f"left out: {counted(len(images.rejected_boxes), 'object' if images.has_masks else 'box')}, such as "
            f"{first.path}, {first.where} ({first.reason})",
            "yellow",
        )


def _report_labels(images: ImageTable) -> None:
    """Print the classes that lack images for training or testing."""
    counts = images.class_counts()
    unlabelled = int(counts[-1].sum())
    if unlabelled:
        say(
            f"without a label: {counted(unlabelled, 'training image')}, used with soft labels, texts or teachers, but "
            "not when training on labels alone"
        )
    totals, tested = counts[:-1].sum(axis=1), counts[:-1, SPLITS.index("test")]
    for about, found in (
        ("too small: {} with a single image, which cannot be used for both training and testing", totals == 1),
        ("not tested: {} without a test image", (totals > 1) & (tested == 0) & tested.any()),
    ):
        names = [images.classes[label] for label in np.flatnonzero(found).tolist()]
        more = ", ..." if len(names) > MOST_SHOWN else ""
        if names:
            say(f"{about.format(counted(len(names), 'class'))}: {', '.join(names[:MOST_SHOWN])}{more}", "yellow")


class ImageFindings(TypedDict):
    """The findings in an image set.

    Attributes:
        classes: images a split of each class.
        unlabelled: images a split without a label.
        boxes: boxes a split of each class; empty in a set without boxes.
        pixels: pixels a split of each class, and of what is void; empty in a set without masks.
        left_out: path and reason of files that are left out.
        boxes_left_out: image, place in the source, and reason of boxes that are left out.
        copies: paths of images that occur more than once, by image id.
        leaked: paths a split of images in more than one, by image id.
        conflicting: paths a label of images with more than one, by image id.
        splits: split, path and id of each image, if asked for.
    """

    classes: dict[str, dict[str, int]]
    unlabelled: dict[str, int]
    boxes: dict[str, dict[str, int]]
    pixels: dict[str, dict[str, int]]
    left_out: list[dict[str, str]]
    boxes_left_out: list[dict[str, str]]
    copies: Mapping[str, tuple[str, ...]]
    leaked: Mapping[str, Places]
    conflicting: Mapping[str, Places]
    splits: list[dict[str, str]]


def find_in_images(images: ImageTable, *, splits: bool = False) -> ImageFindings:
    """Return the findings in an image set; with `splits` also the split of each image."""
    *counts, unlabelled = (dict(zip(SPLITS, map(int, row), strict=True)) for row in images.class_counts())
    found = find_duplicates(images)
    return {
        "classes": dict(zip(images.classes, counts, strict=True)),
        "unlabelled": unlabelled,
        "boxes": count_boxes(images) if images.has_boxes else {},
        "pixels": count_pixels(images) if images.has_masks else {},
        "left_out": [{"path": rejected.path, "reason": rejected.reason} for rejected in images.rejected],
        "boxes_left_out": [vars(rejected) for rejected in images.rejected_boxes],
        "copies": found.copies,
        "leaked": found.leaked,
        "conflicting": found.conflicting,
        "splits": images.rows.select(["split", "path", "id"]).to_pylist() if splits else [],
    }


def count_boxes(images: ImageTable) -> dict[str, dict[str, int]]:
    """Return the number of boxes of each class by split."""
    counts = np.zeros((len(images.classes), len(SPLITS)), np.int64)
    for number, split in enumerate(SPLITS):
        for boxes in images.boxes(images.split(split)):
            if boxes is not None:
                own = boxes[:, 0].astype(np.int64)
                np.add.at(counts[:, number], own[own >= 0], 1)
    rows = (dict(zip(SPLITS, row, strict=True)) for row in counts.tolist())
    return dict(zip(images.classes, rows, strict=True))


def count_pixels(images: ImageTable) -> dict[str, dict[str, int]]:
    """Return the number of pixels of each class by split; the last row counts those that are void."""
    counts = np.zeros((VOID + 1, len(SPLITS)), np.int64)
    for number, split in enumerate(SPLITS):
        for mask in images.masks(images.split(split)):
            if mask is not None:
                counts[:, number] += np.bincount(decode_mask(mask).ravel(), minlength=VOID + 1)
    kept = [*range(len(images.classes)), VOID]
    rows = (dict(zip(SPLITS, row, strict=True)) for row in counts[kept].tolist())
    return dict(zip([*images.classes, "void"], rows, strict=True))


def finding_rows(found: ImageFindings) -> Iterator[tuple[str, ...]]:
    """Yield the findings as rows of a table: a word for the kind, then its fields."""
    for name, numbers in found["classes"].items():
        yield "class", name, *(f"{split} {number}" for split, number in numbers.items())
    if any(found["unlabelled"].values()):
        yield "no label", "", *(f"{split} {number}" for split, number in found["unlabelled"].items())
    for name, numbers in found["boxes"].items():
        yield "boxes", name, *(f"{split} {number}" for split, number in numbers.items())
    for name, numbers in found["pixels"].items():
        yield "pixels", name, *(f"{split} {number}" for split, number in numbers.items())
    for row in found["splits"]:
        yield "split", row["split"], row["path"], row["id"]
    for row in found["left_out"]:
        yield "left out", row["path"], row["reason"]
    for row in found["boxes_left_out"]:
        yield "box left out", row["path"], row["where"], row["reason"]
    for image_id, paths in found["copies"].items():
        yield "copies", image_id, ", ".join(paths)
    for kind, several in (("leaked", found["leaked"]), ("labels", found["conflicting"])):
        for image_id, places in several.items():
            for name, paths in places.items():
                yield kind, image_id, name, ", ".join(paths)
