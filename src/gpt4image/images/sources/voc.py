"""Pascal VOC: an XML file of boxes for each image (Everingham et al., "The PASCAL Visual Object Classes Challenge").

In the challenge's own folders the files are in `Annotations`, the images in `JPEGImages`, and the splits in
`ImageSets/Main`; labelling tools write the files beside the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from gpt4image.core.errors import DataError
from gpt4image.images.boxes import GivenBox
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.coco_boxes import finish
from gpt4image.images.sources.folders import FileReader, inspect_file, is_hidden, subfolders
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.splits import split_named

ANNOTATIONS, IMAGES, SETS = "Annotations", "JPEGImages", Path("ImageSets", "Main")
EDGES = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """The content of an XML file.

    Attributes:
        name: name of the image file, if it says so.
        size: width and height that it gives, None for none.
        boxes: its boxes.
    """

    name: str
    size: tuple[int, int] | None
    boxes: list[GivenBox]


def find_voc_files(folder: Path) -> list[Path]:
    """Return the XML files of Pascal VOC in a folder: in `Annotations`, beside the images, or by split."""
    splits = [folder / name for name in subfolders(folder) if split_named(name)]
    for places in ([folder / ANNOTATIONS], [folder, folder / "annotations", *splits]):
        files = sorted(file for place in places for file in place.glob("*.xml") if not is_hidden(file.name))
        if any(map(_is_annotation, islice(files, 3))):
            return files
    return []


def _is_annotation(file: Path) -> bool:
    with file.open("rb") as content:
        return b"<annotation" in content.read(4096)


def list_voc(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that XML files are about, with their boxes, as the files give them.

    A file without objects belongs to a background; an XML file that is broken is left out with its image. Splits are
    those of `ImageSets/Main`, else the folders of the files.

    Args:
        root: the folder of the source.
        files: the XML files.
        columns: unused; every source has them.

    Raises:
        DataError: no box can be used, or an image is in two splits.
    """
    builder, scope = ListingBuilder(), str(root.resolve())
    chosen, images = read_split_lists(root / SETS), _find_images(root)
    for row, file in enumerate(files):
        name = file.relative_to(root).as_posix()
        try:
            annotation = _read(file)
        except DataError as error:
            builder.reject(name, str(error))
            continue
        image = _image_of(file, annotation, images)
        if image is None:
            builder.reject(name, f"its image {annotation.name or file.stem!r} is missing")
            continue
        if chosen and file.stem not in chosen:
            builder.ignore(name, f"is not listed in {SETS.as_posix()}")
            continue
        path = image.relative_to(root).as_posix()
        found = inspect_file(image, path, scope)
        if found.fault:
            builder.reject(path, found.fault)
            continue
        split = chosen.get(file.stem) or split_named(file.parent.name) or "train"
        builder.add_with_boxes(path, image, split, row, found.key, annotation.boxes, annotation.size)
    return finish(builder, FileReader(root), str(root))


def read_split_lists(folder: Path) -> dict[str, str]:
    """Return the split of each file's stem by the lists of `ImageSets/Main` or a folder like it; empty without lists.

    Raises:
        DataError: an image is in two splits.
    """
    lists = {name: folder / f"{name}.txt" for name in ("train", "val", "test", "trainval")}
    present = [name for name, file in lists.items() if file.is_file()]
    if {"train", "val"} & set(present):
        present = [name for name in present if name != "trainval"]  # both together
    found: dict[str, str] = {}
    for name in present:
        split = split_named(name) or "train"
        for line in lists[name].read_text().splitlines():
            stem = next(iter(line.split()), "")
            if found.setdefault(stem, split) != split:
                raise DataError(f"{lists[name]}: {stem} is also in the {found[stem]} split. Remove it from one.")
    return found


def _find_images(root: Path) -> dict[tuple[Path, str], Path]:
    """Return the image files in the folders of a source by folder and stem."""
    places = [root, *(root / name for name in subfolders(root))]
    files = (file for place in places for file in sorted(place.iterdir()) if file.suffix.casefold() in IMAGE_SUFFIXES)
    return {(file.parent, file.stem): file for file in files}


def _image_of(file: Path, annotation: Annotation, images: Mapping[tuple[Path, str], Path]) -> Path | None:
    """Return the image of an XML file: of the name that it gives or its own, in `JPEGImages`, beside it, or above."""
    above = file.parent.parent
    for place in (above / IMAGES, file.parent, above / "images", above):
        for stem in (file.stem, Path(annotation.name.replace("\\", "/")).stem):
            if (place, stem) in images:
                return images[place, stem]
    return None


def _read(file: Path) -> Annotation:
    """Read an XML file. DataError if it is broken, or declares entities, which could be endless."""
    text = file.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise DataError("declares a document type, which annotations do not need")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not XML ({error})") from None
    width, height = (_number(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    known = width and height and 0 < width < math.inf and 0 < height < math.inf
    size = (int(width or 0), int(height or 0)) if known else None
    return Annotation((tree.findtext("filename") or "").strip(), size, list(_boxes(tree, file.name)))


def _boxes(tree: ElementTree.Element, name: str) -> Iterator[GivenBox]:
    for number, each in enumerate(tree.findall("object"), 1):
        where = f"{name} object {number}"
        label = (each.findtext("name") or "").strip()
        edges = [_number(each.findtext(f"bndbox/{edge}")) for edge in EDGES]
        left, top, right, bottom = (0.0 if edge is None else edge for edge in edges)
        fault = "" if None not in edges else f"its bndbox lacks {' '.join(EDGES)}, or one of them is no number"
        yield GivenBox(label, (left, top, right, bottom), where, fault)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
