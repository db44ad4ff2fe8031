"""YOLO folders: images, beside them a text file of boxes for each, and `data.yaml` with the classes and splits.

https://docs.ultralytics.com/datasets/detect describes the format, which labelling tools export as well.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt4image.core.console import say
from gpt4image.core.errors import DataError, first_line
from gpt4image.core.format import counted
from gpt4image.images.boxes import Corners, GivenBox, find_picture_size
from gpt4image.images.sources.coco_boxes import finish
from gpt4image.images.sources.folders import FileReader, inspect_file, is_hidden, is_image_name, locate, walk
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.splits import split_named

SUFFIXES = (".yaml", ".yml")
CLASSES = "classes.txt"  # class names, one per line, from tools that write no data.yaml
SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


def find_yolo_files(folder: Path) -> list[Path]:
    """Return the file that names the classes of a YOLO folder; nothing if it is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.casefold() in SUFFIXES and not is_hidden(file.name))
    found = [file for file in files if is_yolo(file)]
    if len(found) > 1:
        raise DataError(f"{folder} contains several YOLO files: {', '.join(each.name for each in found)}. Name one.")
    listed = folder / CLASSES
    return found or ([listed] if listed.is_file() and (folder / "labels").is_dir() else [])


def is_yolo(file: Path) -> bool:
    """Whether a YAML file names classes and a split, as YOLO's `data.yaml` does."""
    if file.suffix.casefold() not in SUFFIXES:
        return False
    try:
        content = _load(file)
    except DataError:
        return False
    return "names" in content and any(key in content for key in SPLIT_KEYS)


def list_yolo(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of a YOLO folder with their boxes; the boxes of polygons are those around them.

    An image without a file of boxes, or with an empty one, is a background.

    Args:
        root: the folder of the source.
        files: `data.yaml`, or `classes.txt` of a folder with `images` and `labels`.
        columns: unused; every source has them.

    Raises:
        DataError: the file is broken, a folder does not exist, or no box can be used.
    """
    (file,) = files
    names, places = _read_classes(file) if file.name == CLASSES else _read_data(file)
    builder, row, bare, scope = ListingBuilder(), 0, 0, str(root.resolve())
    for split, place in places:
        for image in _images(place):
            path = locate(root, os.path.relpath(image, root))
            found = inspect_file(root / path, path, scope)
            if found.fault:
                builder.reject(found.path, found.fault)
            else:
                labels = _label_file(image)
                bare += not labels.is_file()
                size, _ = find_picture_size(image, None)
                given = _read_boxes(labels, names, size or (1, 1)) if labels.is_file() else ()
                builder.add_with_boxes(found.path, image, split, row, found.key, given)
            row += 1
    if bare:
        say(f"{counted(bare, 'image')} without a box file {'is a background' if bare == 1 else 'are backgrounds'}")
    return finish(builder, FileReader(root), str(file))


def _load(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file} is not YAML: {first_line(error)}") from None
    return content if isinstance(content, dict) else {}


def _read_data(file: Path) -> tuple[dict[int, str], list[tuple[str, Path]]]:
    """Return the classes by number, and the folders or lists of images of each split."""
    content = _load(file)
    names = content.get("names")
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    classes = {int(number): str(name).strip() for number, name in pairs if str(number).isdigit()}
    if not classes or len(classes) != len(names or ()):
        raise DataError(f"{file}: names {names!r} is not a list of classes.")
    places: list[tuple[str, Path]] = []
    for key in SPLIT_KEYS:
        given = content.get(key)
        for entry in given if isinstance(given, list) else [given] if given else []:
            places.append((split_named(key) or key, _place(file, content.get("path"), str(entry))))
    return classes, places


def _place(file: Path, base: object, entry: str) -> Path:
    """Return the folder or list that an entry of `data.yaml` names: below `path`, or beside the file."""
    above = [file.parent / str(base or ""), file.parent]
    plain = entry.replace("\\", "/")
    inner = plain
    while inner.startswith("../"):  # as Roboflow writes it
        inner = inner.removeprefix("../")
    found = (place / name for place in above for name in (plain, inner) if (place / name).exists())
    place = next(found, None)
    if place is None:
        raise DataError(f"{file}: {entry} does not exist. Correct it, or the `path` above it.")
    return place


def _read_classes(file: Path) -> tuple[dict[int, str], list[tuple[str, Path]]]:
    """Return the classes of a folder with `images` and `labels`, divided into splits or not."""
    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    images = file.parent / "images"
    if not images.is_dir():
        raise DataError(f"{file.parent} has a folder `labels` but no folder `images`.")
    inner = [(split, place) for place in sorted(images.iterdir()) if (split := split_named(place.name))]
    return dict(enumerate(filter(None, lines))), inner or [("train", images)]


def _images(place: Path) -> Iterator[Path]:
    """Yield the images of a folder, or those that a text file lists."""
    if place.is_dir():
        yield from (place / path for path in sorted(each.path for each in walk(place)) if is_image_name(path))
        return
    for line in place.read_text("utf-8-sig").splitlines():
        if line.strip():
            yield place.parent / line.strip()


def _label_file(image: Path) -> Path:
    """Return the file of an image's boxes: in `labels` where the image is in `images`, else beside it."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        return Path(*parts, f"{image.stem}.txt")
    return image.with_suffix(".txt")


def _read_boxes(file: Path, names: Mapping[int, str], size: tuple[int, int]) -> Iterator[GivenBox]:
    """Yield the boxes of a file; lines are a class and the centre, width and height of a box, or a polygon."""
    for number, line in enumerate(file.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        where = f"{file.name} line {number}"
        if not line.strip():
            continue
        try:
            label, *values = map(float, line.split())
        except ValueError:
            yield GivenBox("", (0.0,) * 4, where, f"{line.strip()[:40]!r} is not a class and numbers")
            continue
        known = label.is_integer() and int(label) in names
        fault = "" if known else f"class {line.split()[0]} is not one of the {len(names)}"
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            fault = f"has {len(values)} numbers after the class, neither a box nor a polygon"
        corners = (0.0,) * 4 if fault else _corners(values, size)
        yield GivenBox("" if fault else names[int(label)], corners, where, fault)


def _corners(values: Sequence[float], size: tuple[int, int]) -> Corners:
    """Return the corners in pixels of a box (centre, width, height) or a polygon in shares of width and height."""
    width, height = size
    if len(values) == 4:
        x, y, across, down = values
        ends = (x - across / 2, y - down / 2, x + across / 2, y + down / 2)
    elif all(map(math.isfinite, values)):
        ends = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    else:
        ends = (math.nan,) * 4
    return ends[0] * width, ends[1] * height, ends[2] * width, ends[3] * height
