"""Folders of images and of masks: for each image a mask with the same name, made of indices or colours.

Known are `images` and `masks`, within or around folders of splits, and Pascal VOC's `JPEGImages` and
`SegmentationClass` with the lists of `ImageSets/Segmentation` (Everingham et al., IJCV 88 (2010)). Names of the classes
come from `classes.txt`, a name a line from index 0 on, from `labelmap.txt` as CVAT writes it (`name:r,g,b::`), or from
`class_dict.csv` (`name,r,g,b`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt4image.core.console import say
from gpt4image.core.errors import DataError, ImageError, first_line
from gpt4image.core.format import counted
from gpt4image.images.boxes import Boxes, find_picture_size
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.masks import (
    BACKGROUND,
    COLOUR,
    MOST_CLASSES,
    VOID,
    ReadMask,
    encode_mask,
    is_background,
    number_mask,
    read_mask_file,
    regions_of,
)
from gpt4image.images.scan import available_processors
from gpt4image.images.sources.folders import FileReader, FoundFile, holds_images, is_image_name, subfolders, walk
from gpt4image.images.sources.label_sets import LabelSet
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.sources.voc import read_split_lists
from gpt4image.images.splits import UNLABELLED, split_named

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "segmentationclass", "annotations", "labels", "gt")
ENDS = ("", "_mask", "_masks", "_label", "_labels", "-mask")  # suffixes of a mask's name after that of its image
LISTS = Path("ImageSets", "Segmentation")
CLASSES, LABEL_MAP, CLASS_TABLE = "classes.txt", "labelmap.txt", "class_dict.csv"
VOIDS = ("void", "ignore", "ignored", "unlabelled", "unlabeled")  # names that are not classes
VOC_VOID = COLOUR + 0xE0E0C0  # the colour of Pascal VOC's edges


def find_mask_folders(root: Path) -> list[Path]:
    """Return the folders of masks in a folder that have a folder of images beside them."""
    tops = [root, *(root / name for name in subfolders(root) if split_named(name))]
    return [masks for top in tops if (masks := _beside(top, MASK_FOLDERS)) and _beside(top, IMAGE_FOLDERS)]


def _beside(top: Path, known: Sequence[str]) -> Path | None:
    """Return the first of the folders of some names that holds images."""
    inside = {name.casefold(): top / name for name in subfolders(top)}
    return next((inside[name] for name in known if name in inside and holds_images(inside[name])), None)


class Entry(NamedTuple):
    """An image, and its mask, or why it cannot be used; neither if it has no mask."""

    image: FoundFile
    split: str
    mask: ReadMask | None
    fault: str


@dataclass(frozen=True)
class MaskClasses:
    """What the values of masks mean.

    Attributes:
        names: the classes.
        numbers: the number of a class, or `VOID`, by value (`ReadMask.values`).
        coloured: whether values are colours, also of masks with a palette.
    """

    names: tuple[str, ...]
    numbers: Mapping[int, int]
    coloured: bool = False


def list_mask_folders(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of folders that have folders of masks beside them.

    An image without a mask is one without labels. An image whose mask is broken, or of another size, is left out. Its
    regions, the connected parts of every class but the background, have boxes.

    Args:
        root: the folder of the source.
        files: the folders of masks.
        columns: of these, how many pixels a mask may have.

    Raises:
        DataError: no mask can be used, values are no classes, or an image has two masks.
    """
    builder, entries = ListingBuilder(), list[Entry]()
    lists = read_split_lists(root / LISTS)
    for folder in files:
        entries += _entries(root, folder, lists, builder, columns.max_pixels)
    found = [entry.mask for entry in entries if entry.mask is not None]
    classes = find_classes(root, files, found)
    if classes.coloured:
        entries = [entry._replace(mask=entry.mask and by_colour(entry.mask)) for entry in entries]
    background = {number for number, name in enumerate(classes.names) if is_background(name)}
    for row, entry in enumerate(entries):
        label, fault = None, entry.fault
        if entry.mask is not None and not fault:
            label, fault = _labelled(entry.mask, classes, background)
        if fault:
            builder.reject(entry.image.path, fault)
        else:
            builder.add(entry.image.path, label, entry.split, row, entry.image.key)
    if not any(label is not None for _, label, *_ in builder.images):
        why = f" Left out: {builder.bad[0].path} ({builder.bad[0].reason})." if builder.bad else ""
        raise DataError(f"{root}: no image has a usable mask.{why}")
    return builder.listing(FileReader(root), classes=classes.names)


def _labelled(mask: ReadMask, classes: MaskClasses, background: set[int]) -> tuple[LabelSet | None, str]:
    """Return what is known of an image by its mask, or why the mask cannot be used."""
    strange = [value for value in mask.values if value not in classes.numbers]
    if strange:
        listed = ", ".join(map(_shown, strange[:3]))
        return None, f"its mask has {listed}, which {'is' if len(strange) == 1 else 'are'} not among the classes"
    pixels = number_mask(mask, dict(classes.numbers))
    present = [label for label in np.unique(pixels).tolist() if label != VOID]
    if not present:
        return None, "its mask is entirely void"
    regions = regions_of(pixels, background)
    boxes = Boxes(tuple(classes.names[label] for label, _ in regions), tuple(box for _, box in regions), mask.size)
    return LabelSet(tuple(classes.names[label] for label in present), boxes=boxes, mask=encode_mask(pixels)), ""


def _shown(value: int) -> str:
    return f"the colour #{value - COLOUR:06x}" if value >= COLOUR else f"the value {value}"


def _entries(
    root: Path, folder: Path, lists: Mapping[str, str], builder: ListingBuilder, max_pixels: int
) -> Iterator[Entry]:
    """Yield the images beside a folder of masks, each with its mask, which is read."""
    images = _beside(folder.parent, IMAGE_FOLDERS)
    assert images is not None  # ensured by `find_mask_folders`
    above, below = (place.relative_to(root).as_posix() for place in (images, folder))
    masks: dict[str, FoundFile] = {}
    for found in walk(root, below):
        inner = found.path.removeprefix(f"{below}/")
        if inner in (CLASSES, LABEL_MAP, CLASS_TABLE):
            continue
        if Path(inner).suffix.casefold() not in IMAGE_SUFFIXES:
            builder.ignore(found.path, "not a mask")
        elif masks.setdefault(stem_of(inner), found) is not found:
            raise DataError(f"{root}: {found.path} and {masks[stem_of(inner)].path} have the same name.")
    pairs: list[tuple[FoundFile, str, FoundFile | None]] = []
    for found in sorted(walk(root, above), key=lambda each: each.path):
        stem = stem_of(found.path.removeprefix(f"{above}/"))
        if not is_image_name(found.path):
            builder.ignore(found.path, f"not an image (suffix {Path(found.path).suffix})")
        elif lists and Path(stem).name not in lists:
            builder.ignore(found.path, f"is not listed in {LISTS.as_posix()}")
            masks.pop(stem, None)
        else:
            split = lists.get(Path(stem).name) or split_named(stem.partition("/")[0] if "/" in stem else "")
            own = next((f"{stem}{end}" for end in ENDS if f"{stem}{end}" in masks), None)
            pairs.append((found, split or split_named(folder.parent.name) or "train", own and masks.pop(own)))  # type: ignore[arg-type]
    for unused in masks.values():
        builder.ignore(unused.path, "no image has this name")
    with ThreadPoolExecutor(available_processors()) as pool:
        yield from pool.map(partial(_read, root, max_pixels), pairs)


def stem_of(path: str) -> str:
    """Return a path without its suffix.

    >>> stem_of("train/1.v2.png")
    'train/1.v2'
    """
    return os.path.splitext(path)[0]  # noqa: PTH122 - asked of every file of a set


def _read(root: Path, max_pixels: int, pair: tuple[FoundFile, str, FoundFile | None]) -> Entry:
    image, split, mask = pair
    if image.fault or mask is None or split == UNLABELLED:
        return Entry(image, split, None, image.fault)
    try:
        if mask.fault:
            raise ImageError(mask.fault)
        found = read_mask_file(root / mask.path, max_pixels)
    except ImageError as error:
        return Entry(image, split, None, f"its mask {mask.path} cannot be used: {error}")
    _, fault = find_picture_size(root / image.path, found.size, "mask")
    return Entry(image, split, found, fault)


def by_colour(mask: ReadMask) -> ReadMask:
    """Return a mask of indices with the colours of its palette in their place, or as grey."""
    values = tuple(
        value if value >= COLOUR else COLOUR + mask.palette.get(value, value * 0x010101) for value in mask.values
    )
    return mask._replace(values=values)


def find_classes(root: Path, folders: Iterable[Path], masks: Sequence[ReadMask]) -> MaskClasses:
    """Return what the values of masks mean: by a file that names the classes, else each value is a class.

    Masks of colours that are all grey are masks of indices. 255 is void, unless the only other value is 0: then it is
    the foreground. Palettes that differ from mask to mask give colours a meaning, not indices. Where some masks have
    colours and others plain indices, the values of the fewer are no classes.

    Raises:
        DataError: there are more values than masks can hold, or a file of classes is broken.
    """
    given = _read_class_file(root, folders)
    palettes: dict[int, set[int]] = {}
    for mask in masks:
        for value, colour in mask.palette.items():
            palettes.setdefault(value, set()).add(colour)
    coloured = [mask for mask in masks if not all(_is_grey(value) for value in mask.values if value >= COLOUR)]
    plain = [mask for mask in masks if any(value < COLOUR for value in {*mask.values} - {0, VOID, *mask.palette})]
    if given is None and coloured and plain:
        fewer = coloured if len(coloured) < len(plain) else plain
        masks = [mask for mask in masks if not any(mask is each for each in fewer)]
        coloured = [] if fewer is coloured else coloured
    values = {value for mask in masks for value in mask.values}
    differ = any(len(colours) > 1 for colours in palettes.values())
    if given is not None and given.coloured:
        return given
    if given is not None and 2 * len(coloured) > len(masks):
        raise DataError(f"{root}: the masks have colours, and {CLASSES} has no colours: use {CLASS_TABLE} instead.")
    if given is None and (coloured or differ):
        if differ:
            say(f"{root}: the palettes of the masks differ, so classes are identified by colour, not by index.")
        return _colours_as_classes(root, {value for mask in masks for value in by_colour(mask).values})
    if given is None:
        given = _indices_as_classes(root, {_index(value) for value in values})
    numbers = dict(given.numbers)
    greys = [value for value in values if value >= COLOUR and _is_grey(value)]
    numbers |= {value: numbers[_index(value)] for value in greys if _index(value) in numbers}
    return MaskClasses(given.names, numbers)


def _is_grey(value: int) -> bool:
    return (value - COLOUR) == ((value - COLOUR) & 0xFF) * 0x010101


def _index(value: int) -> int:
    """Return the index that a value stands for; of grey its brightness."""
    return (value - COLOUR) & 0xFF if value >= COLOUR else value


def _indices_as_classes(root: Path, values: set[int]) -> MaskClasses:
    """Return classes that are called like their indices."""
    if values == {0, VOID}:
        say(f"{root}: the masks contain only 0 and {VOID}, which are read as {BACKGROUND} and foreground.")
        return MaskClasses((BACKGROUND, "foreground"), {0: 0, VOID: 1})
    kept = sorted(values - {VOID})
    _check_count(root, len(kept))
    if VOID in values:
        say(f"{root}: the value {VOID} in masks is void and ignored.")
    return MaskClasses(tuple(map(str, kept)), {value: number for number, value in enumerate(kept)} | {VOID: VOID})


def _colours_as_classes(root: Path, values: set[int]) -> MaskClasses:
    kept = sorted(values - {VOC_VOID})
    _check_count(root, len(kept))
    colours = tuple(f"#{value - COLOUR:06x}" for value in kept)
    say(
        f"{root}: the masks have {counted(len(kept), 'colour')}, each of which is a class named after it; use "
        f"{CLASS_TABLE} (name,r,g,b) to name them."
    )
    numbers = {value: number for number, value in enumerate(kept)}
    return MaskClasses(colours, numbers | {VOC_VOID: VOID}, coloured=True)


def _check_count(root: Path, count: int) -> None:
    if count > MOST_CLASSES:
        raise DataError(
            f"{root}: the masks have {count:,} different values, but at most {MOST_CLASSES} classes are supported. "
            "Are they class masks, with one value per class?"
        )


def _read_class_file(root: Path, folders: Iterable[Path]) -> MaskClasses | None:
    """Return the classes that a file names; None without one. DataError names a line that is broken."""
    places = [root, *folders]
    for name, read in ((LABEL_MAP, _label_map), (CLASS_TABLE, _class_table), (CLASSES, None)):
        file = next((place / name for place in places if (place / name).is_file()), None)
        if file is None:
            continue
        try:
            lines = file.read_text("utf-8-sig").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as text in UTF-8 ({first_line(error)}).") from None
        if read is None:
            listed = [line.strip() for line in lines]
            if "" in listed:
                raise DataError(
                    f"{file} line {listed.index('') + 1} is empty, but the line number determines the index: write "
                    "void for an index that is not a class."
                )
            kept = [name for name in listed if name.casefold() not in VOIDS]
            numbers = {at: kept.index(name) if name in kept else VOID for at, name in enumerate(listed)}
            return _checked(file, kept, {VOID: VOID} | numbers, coloured=False)
        colours: dict[int, str] = {}
        for at, line in enumerate(lines, 1):
            try:
                pair = read(line)
            except (ValueError, csv.Error):
                raise DataError(f"{file} line {at}: {line[:60]!r} is not a name and a colour of 0 to 255.") from None
            if pair is not None and colours.setdefault(*pair) != pair[1]:
                raise DataError(f"{file} line {at}: {pair[1]} has the same colour as {colours[pair[0]]}.")
        kept = [name for name in dict.fromkeys(colours.values()) if name.casefold() not in VOIDS]
        by_value = {value: kept.index(name) if name in kept else VOID for value, name in colours.items()}
        return _checked(file, kept, {VOC_VOID: VOID} | by_value, coloured=True)
    return None


def _checked(file: Path, kept: Sequence[str], numbers: dict[int, int], *, coloured: bool) -> MaskClasses:
    if not 1 <= len(kept) <= MOST_CLASSES:
        raise DataError(f"{file} names {counted(len(kept), 'class')}; it must name 1 to {MOST_CLASSES}.")
    if twice := [name for at, name in enumerate(kept) if name in kept[:at]]:
        raise DataError(f"{file} names the class {twice[0]} twice; give each class its own name.")
    return MaskClasses(tuple(kept), numbers, coloured)


def _label_map(line: str) -> tuple[int, str] | None:
    """Return colour and name of a line of CVAT's `labelmap.txt`: `name:r,g,b:parts:actions`."""
    if not line.strip() or line.startswith("#"):
        return None
    name, colour, *_ = line.split(":")
    return _packed(colour.split(",")), name.strip()


def _class_table(line: str) -> tuple[int, str] | None:
    """Return colour and name of a line `name,r,g,b`; None for the heading."""
    cells = next(csv.reader([line]), [])
    if not cells or [cell.strip().casefold() for cell in cells[1:4]] in (["r", "g", "b"], ["red", "green", "blue"]):
        return None
    return _packed(cells[1:4]), cells[0].strip()


def _packed(cells: Sequence[str]) -> int:
    red, green, blue = map(int, cells)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError
    return COLOUR + (red << 16) + (green << 8) + blue
