"""COCO's annotation files (JSON) as boxes: Lin et al., "Microsoft COCO", arXiv 1405.0312, and what tools export."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.images.boxes import GivenBox
from gpt4image.images.sources.coco import image_folder, is_coco, load_coco, read_categories, read_images
from gpt4image.images.sources.folders import FileReader, inspect_file, is_hidden, locate, subfolders
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.splits import splits_of_files

LARGEST = 2**53  # integers below this are exact as floats


def find_coco_files(folder: Path) -> list[Path]:
    """Return COCO's files of objects in a folder: beside the images, in `annotations`, or in the folder of each split.

    Of several kinds of annotations (`captions_`, `person_keypoints_`) those called `instances` are taken.
    """
    places = [folder, *(folder / name for name in subfolders(folder))]
    files = sorted(file for place in places for file in place.glob("*.json") if not is_hidden(file.name))
    found = [file for file in files if is_coco(file)]
    return [file for file in found if file.stem.casefold().startswith("instances")] or found


class CocoImage(NamedTuple):
    """An image that an annotation file names.

    Attributes:
        path: the image, as the table calls it.
        file: where it is.
        split: its split.
        row: its position in the source.
        key: what changes when it may have changed.
        size: width and height that the annotations give, None for none.
        entries: its annotations, each with its place among those of the file.
        names: names of the categories by number.
        source: the annotation file.
    """

    path: str
    file: Path
    split: str
    row: int
    key: bytes
    size: tuple[int, int] | None
    entries: list[tuple[int, Mapping[str, Any]]]
    names: Mapping[int, str]
    source: Path


def list_coco_boxes(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that annotation files name, with the boxes of their objects.

    An image without objects is a background. An object without a category_id is one whose class is not known. Crowd
    regions are left out. The images are found as `list_coco` finds
    them; several files are splits that their names or folders tell, and categories of the same name are one class.

    Args:
        root: the folder of the source.
        files: the annotation files.
        columns: unused; every source has them.

    Raises:
        DataError: a file is broken or of another form, or no box can be used; file and entry are named.
    """
    builder = ListingBuilder()
    for each in coco_images(root, files, builder):
        given = [read_box(entry, at, each) for at, entry in each.entries]
        builder.add_with_boxes(each.path, each.file, each.split, each.row, each.key, given, each.size)
    return finish(builder, FileReader(root), str(root))


def coco_images(root: Path, files: Sequence[Path], builder: ListingBuilder) -> Iterator[CocoImage]:
    """Yield the images of annotation files that are there; the builder learns of the others.

    Raises:
        DataError: a file is broken or of another form, or an annotation belongs to no image; file and entry are named.
    """
    row, scope = 0, str(root.resolve())
    splits = splits_of_files([file.relative_to(root).as_posix() for file in files])
    for file, split in zip(files, splits, strict=True):
        content = load_coco(file)
        names = read_categories(content, file)
        images = list(read_images(content, file))
        entries = _entries(content, file)
        sizes = {each["id"]: _size(each) for each in content["images"]}
        folder = Path(os.path.relpath(file.parent / image_folder(file, [name for _, name in images]), root))
        for number, name in images:
            path = locate(root, os.path.normpath(folder / name.replace("\\", "/")))
            found = inspect_file(root / path, path, scope)
            if found.fault:
                builder.reject(found.path, f"{found.fault} ({file.name}, image {number})")
            else:
                own = entries.get(number, [])
                yield CocoImage(found.path, root / path, split, row, found.key, sizes[number], own, names, file)
            row += 1


def finish(builder: ListingBuilder, reader: FileReader, source: str) -> Listing:
    """Return the listing of images with boxes. DataError if no box can be used."""
    if (builder.images or builder.rejected_boxes) and not any(
        label for _, label, *_ in builder.images if label is not None and label[0]
    ):
        left = builder.rejected_boxes
        why = f" Left out: {counted(len(left), 'box')}, such as {left[0].path}, {left[0].where} ({left[0].reason})."
        raise DataError(f"{source}: no image has a usable box.{why if left else ''}")
    return builder.listing(reader)


def _entries(content: Mapping[str, Any], file: Path) -> dict[int, list[tuple[int, Mapping[str, Any]]]]:
    """Return the annotations of each image with their places, by its number. DataError if one belongs to no image."""
    found: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
    known = {each["id"] for each in content["images"]}
    for at, each in enumerate(content["annotations"]):
        entry: Mapping[str, Any] = each if isinstance(each, dict) else {}
        image = entry.get("image_id")
        if not isinstance(image, int) or image not in known:
            raise DataError(
                f"{file}, annotation {at}: image_id {image!r} is not among its images. Add the image, or remove "
                "the annotation."
            )
        found.setdefault(image, []).append((at, entry))
    return found


def read_box(entry: Mapping[str, Any], at: int, image: CocoImage) -> GivenBox:
    """Return the box of an annotation, whose place in the file is `at`."""
    category, box = entry.get("category_id"), entry.get("bbox")
    corners, fault = (0.0, 0.0, 0.0, 0.0), ""
    if category is not None and (not isinstance(category, int) or category not in image.names):
        fault = f"category_id {category!r} is not among the categories"
    elif entry.get("iscrowd"):
        fault = "is a crowd of objects"
    elif not isinstance(box, list) or len(box) != 4 or not all(is_number(edge) for edge in box):
        fault = f"bbox {str(box)[:40]} is not left, top, width and height"
    else:
        left, top, width, height = map(float, box)
        corners = (left, top, left + width, top + height)
    name = "" if fault or category is None else image.names[int(category)]
    return GivenBox(name, corners, f"{image.source.name}, annotation {at}", fault)


def is_number(value: object) -> bool:
    """Whether a value of a file is a number that a float holds."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, float)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height that the annotations give of an image, None for none."""
    width, height = image.get("width"), image.get("height")
    sides = [float(side) if is_number(side) else 0.0 for side in (width, height)]  # type: ignore[arg-type]
    return (int(sides[0]), int(sides[1])) if all(0 < side < math.inf for side in sides) else None
