"""COCO's annotation files (JSON) as masks: outlines of objects, polygons or run lengths, painted on a background."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpt4image.core.errors import DataError, MissingExtraError, first_line
from gpt4image.images.boxes import Boxes, Corners, GivenBox, check_boxes, find_picture_size
from gpt4image.images.masks import BACKGROUND, MOST_CLASSES, VOID, encode_mask
from gpt4image.images.sources.coco_boxes import CocoImage, coco_images, is_number, read_box
from gpt4image.images.sources.folders import FileReader
from gpt4image.images.sources.label_sets import LabelSet
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder, encode_labels

FAR = 2.0  # how far a polygon may extend beyond the image, in sides of the image


class UnusableMaskError(Exception):
    """An image's mask cannot be made; the message says why."""


def list_coco_masks(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that annotation files name, with masks of their objects; all else is the class `background`.

    The smaller of two objects that overlap covers the other. Crowds, and objects without a known category, are void;
    so is the box of an object whose outline is broken. Images and splits are found as `list_coco_boxes` finds them.

    Args:
        root: the folder of the source.
        files: the annotation files.
        columns: unused; every source has them.

    Raises:
        DataError: a file is broken or of another form, or no outline can be used; file and entry are named.
        MissingExtraError: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise MissingExtraError("pycocotools", "detection", "Reading the outlines of objects")
    builder = ListingBuilder()
    images = list(coco_images(root, files, builder))
    classes = (BACKGROUND, *(name for name in _used_names(images) if name != BACKGROUND))
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{root} has {len(classes):,} categories, but masks can have at most {MOST_CLASSES} classes.")
    numbers = {name: number for number, name in enumerate(classes)}
    painted = 0
    for image in images:
        size, fault = find_picture_size(image.file, image.size, "masks")
        try:
            if fault:
                raise UnusableMaskError(fault)
            entries = () if size is None else image.entries  # reading the images will report the error
            mask, boxes, drawn = paint(image, entries, size or (1, 1), numbers, builder)
        except UnusableMaskError as error:
            builder.reject(image.path, str(error))
            continue
        painted += drawn
        names = tuple(classes[label] for label in np.unique(mask).tolist() if label != VOID)
        label = LabelSet(names, boxes=boxes, mask=encode_mask(mask))
        builder.add(image.path, label, image.split, image.row, image.key)
    if (builder.images or builder.bad) and not painted:
        left = [f"{each.path}, {each.where} ({each.reason})" for each in builder.rejected_boxes]
        left += [f"{each.path} ({each.reason})" for each in builder.bad]
        why = f" Left out: {left[0]}, and {len(left) - 1:,} more." if left else ""
        raise DataError(f"{root}: no object has a usable outline.{why}")
    return builder.listing(FileReader(root), classes=classes)


def _used_names(images: Sequence[CocoImage]) -> tuple[str, ...]:
    """Return the names of the categories that any object has, in the order of classes."""
    used = {
        image.names[number]
        for image in images
        for _, entry in image.entries
        if isinstance(number := entry.get("category_id"), int) and number in image.names
    }
    return encode_labels(sorted(used))[0]


def paint(
    image: CocoImage,
    entries: Sequence[tuple[int, Mapping[str, Any]]],
    size: tuple[int, int],
    numbers: Mapping[str, int],
    builder: ListingBuilder,
) -> tuple[np.ndarray, Boxes, int]:
    """Return an image's mask uint8 [H, W], its boxes, and how many objects are painted.

    Args:
        image: the image.
        entries: its annotations, with their places.
        size: width and height of the picture.
        numbers: number of each class.
        builder: learns of the objects that are left out.

    Raises:
        UnusableMaskError: an object's place is not known, or nothing is.
    """
    mask = np.full((size[1], size[0]), numbers[BACKGROUND], np.uint8)
    boxes: list[GivenBox] = []
    regions: list[tuple[int, tuple[slice, slice], np.ndarray]] = []
    for at, entry in entries:
        box, label = read_box(entry, at, image), VOID
        if not box.fault and entry.get("category_id") is None:
            box = box._replace(fault="has no category_id")
        region, fault = read_outline(entry, size)
        if region is None:
            region, box = _inside(box, size), box._replace(fault=box.fault or fault)
            if region is None:
                raise UnusableMaskError(f"the place of an object is unknown: {box.where} {fault}")
        elif not box.fault or box.fault.startswith("bbox"):
            label = numbers[image.names[entry["category_id"]]]
            if box.fault:
                box = GivenBox(image.names[entry["category_id"]], _around(region), box.where)
        boxes.append(box)
        if not region.any():  # the box lies outside
            continue
        left, top, right, bottom = map(int, _around(region))
        place = slice(top, bottom), slice(left, right)
        regions.append((label, place, region[place].copy()))  # many masks of whole images would fill the memory
    for label, place, region in sorted(regions, key=lambda each: (each[0] != VOID, -int(each[2].sum()))):
        mask[place][region] = label
    if (mask == VOID).all():
        raise UnusableMaskError("its mask is entirely void")
    checked = check_boxes(image.path, boxes, size)
    builder.rejected_boxes += checked.rejected
    builder.clipped_boxes += checked.clipped
    return mask, checked.boxes, sum(label != VOID for label, _, _ in regions)


def _inside(box: GivenBox, size: tuple[int, int]) -> np.ndarray | None:
    """Return what of a picture lies in a box, bool [H, W]; None if the box says nothing."""
    left, top, right, bottom = box.corners
    if not all(map(math.isfinite, box.corners)) or right <= left or bottom <= top:
        return None
    region = np.zeros((size[1], size[0]), dtype=bool)
    edges = [min(max(edge, 0.0), float(size[at % 2])) for at, edge in enumerate(box.corners)]
    region[math.floor(edges[1]) : math.ceil(edges[3]), math.floor(edges[0]) : math.ceil(edges[2])] = True
    return region


def _around(region: np.ndarray) -> Corners:
    """Return the box around what is true, bool [H, W]."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def read_outline(entry: Mapping[str, Any], size: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """Return what an object covers, bool [H, W], or None and why its outline cannot be used.

    Args:
        entry: the annotation; its `segmentation` is a list of polygons, or run lengths, compressed or not.
        size: width and height of the picture.
    """
    try:
        region = _painted(entry.get("segmentation"), size)
    except ValueError as error:
        return None, first_line(error)
    return (region, "") if region.any() else (None, "its outline covers no pixel")


def _painted(given: object, size: tuple[int, int]) -> np.ndarray:
    """Return what an outline covers, bool [H, W]. ValueError says why it cannot be used."""
    from pycocotools import mask as coco  # type: ignore[import-untyped]

    width, height = size
    if isinstance(given, list) and given:
        if fault := next(_polygon_faults(given, size), ""):
            raise ValueError(fault)
        polygons = coco.frPyObjects([list(map(float, each)) for each in given], height, width)
        return np.asarray(coco.decode(coco.merge(polygons)), bool)
    if not isinstance(given, dict):
        raise ValueError("has no outline (segmentation)")
    counts, said = given.get("counts"), given.get("size")
    if said != [height, width]:
        raise ValueError(f"its run lengths are for a picture of size {said} (height, width), not {[height, width]}")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    if not isinstance(counts, list) or not all(isinstance(each, int) and each >= 0 for each in counts):
        raise ValueError("its run lengths have no counts")
    if sum(counts) != height * width:
        raise ValueError("its run lengths do not add up to the picture")
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(size).T  # column by column, first what is outside


def _unpacked(packed: str) -> list[int]:
    """Return compressed run lengths: five bits a character, the lowest first, from the fourth on the change from the
    last but one.

    As `rleFrString` in cocoapi's `common/maskApi.c` reads them; its `rleDecode` leaves what they do not fill as it was
    in memory. ValueError if they are damaged.
    """
    found: list[int] = []
    value = shift = 0
    for character in packed:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("its run lengths cannot be read")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more bits follow
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    return found


def _polygon_faults(polygons: Sequence[object], size: tuple[int, int]) -> Iterator[str]:
    """Yield what is wrong with the polygons of an object."""
    for each in polygons:
        if not isinstance(each, list) or len(each) < 6 or len(each) % 2 or not all(map(is_number, each)):
            yield f"its polygon {str(each)[:40]} is not a list of at least three points with two numbers each"
            continue
        # distant corners would take a step for each pixel in between
        for axis, side in enumerate(size):
            ends = [float(value) for value in each[axis::2]]
            if not all(-FAR * side <= value <= (1 + FAR) * side for value in ends):
                yield f"its polygon extends far beyond the picture, which has {size[0]} x {size[1]} pixels"
