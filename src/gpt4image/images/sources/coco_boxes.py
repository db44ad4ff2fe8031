"""COCO's annotation files (JSON) as boxes: Lin et al., "Microsoft COCO", arXiv 1405.0312, and what tools export."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.images.boxes import GivenBox
from gpt4image.images.sources.coco import image_folder, is_coco, load_coco, read_categories, read_images
from gpt4image.images.sources.folders import FileReader, inspect_file, is_hidden, locate, subfolders
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.splits import splits_of_files

LARGEST = 2**53  # whole numbers up to which a float holds


def find_coco_files(folder: Path) -> list[Path]:
    """Return COCO's files of objects in a folder: beside the images, in `annotations`, or in the folder of each split.

    Of several kinds of annotations (`captions_`, `person_keypoints_`) those called `instances` are taken.
    """
    places = [folder, *(folder / name for name in subfolders(folder))]
    files = sorted(file for place in places for file in place.glob("*.json") if not is_hidden(file.name))
    found = [file for file in files if is_coco(file)]
    return [file for file in found if file.stem.casefold().startswith("instances")] or found


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
    builder, row = ListingBuilder(), 0
    splits = splits_of_files([file.relative_to(root).as_posix() for file in files])
    for file, split in zip(files, splits, strict=True):
        content = load_coco(file)
        names = read_categories(content, file)
        images = list(read_images(content, file))
        boxes = _boxes(content, names, file)
        sizes = {each["id"]: _size(each) for each in content["images"]}
        folder = Path(os.path.relpath(file.parent / image_folder(file, [name for _, name in images]), root))
        scope = str(root.resolve())
        for number, name in images:
            path = locate(root, os.path.normpath(folder / name.replace("\\", "/")))
            found = inspect_file(root / path, path, scope)
            if found.fault:
                builder.reject(found.path, f"{found.fault} ({file.name}, image {number})")
            else:
                given = boxes.get(number, ())
                builder.add_with_boxes(found.path, root / path, split, row, found.key, given, sizes[number])
            row += 1
    return finish(builder, FileReader(root), str(root))


def finish(builder: ListingBuilder, reader: FileReader, source: str) -> Listing:
    """Return the listing of images with boxes. DataError if no box can be used."""
    if (builder.images or builder.rejected_boxes) and not any(
        label for _, label, *_ in builder.images if label is not None and label[0]
    ):
        left = builder.rejected_boxes
        why = f" Left out: {counted(len(left), 'box')}, such as {left[0].path}, {left[0].where} ({left[0].reason})."
        raise DataError(f"{source}: no image has a box that can be used.{why if left else ''}")
    return builder.listing(reader)


def _boxes(content: Mapping[str, Any], names: Mapping[int, str], file: Path) -> dict[int, list[GivenBox]]:
    """Return the boxes of each image, by its number. DataError if one belongs to no image."""
    found: dict[int, list[GivenBox]] = {}
    known = {each["id"] for each in content["images"]}
    for at, each in enumerate(content["annotations"]):
        entry: Mapping[str, Any] = each if isinstance(each, dict) else {}
        image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
        if not isinstance(image, int) or image not in known:
            raise DataError(f"{file}, annotation {at}: image_id {image!r} is none of its images.")
        corners, fault = (0.0, 0.0, 0.0, 0.0), ""
        if category is not None and (not isinstance(category, int) or category not in names):
            fault = f"category_id {category!r} is none of the categories"
        elif entry.get("iscrowd"):
            fault = "is a crowd of objects"
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(edge) for edge in box):
            fault = f"bbox {str(box)[:40]} is not left, top, width and height"
        else:
            left, top, width, height = map(float, box)
            corners = (left, top, left + width, top + height)
        name = "" if fault or category is None else names[category]
        found.setdefault(image, []).append(GivenBox(name, corners, f"{file.name}, annotation {at}", fault))
    return found


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, float)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height that the annotations give of an image, None for none."""
    width, height = image.get("width"), image.get("height")
    sides = [float(side) if _is_number(side) else 0.0 for side in (width, height)]  # type: ignore[arg-type]
    return (int(sides[0]), int(sides[1])) if all(0 < side < math.inf for side in sides) else None
