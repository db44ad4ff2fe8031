"""COCO's annotation files (JSON) as labels of whole images: an image has the categories of the objects in it.

Lin et al., "Microsoft COCO", arXiv 1405.0312. Labelling tools write the same format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt4image.core.errors import DataError
from gpt4image.core.files import read_brought_json
from gpt4image.images.sources.folders import FileReader, inspect_file
from gpt4image.images.sources.label_sets import LabelSet
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.splits import splits_of_files

PEEK = 1 << 16  # characters at the start of a file that are read to recognise its format


def is_coco(file: Path) -> bool:
    """Whether a file begins as COCO's annotations do; `list_coco` checks the rest."""
    if file.suffix.casefold() != ".json":
        return False
    try:
        with file.open(encoding="utf-8-sig") as text:
            start = text.read(PEEK).lstrip()
    except (OSError, UnicodeDecodeError):
        return False
    return start.startswith("{") and any(f'"{key}"' in start for key in ("images", "annotations", "categories"))


def list_coco(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images that annotation files name, with the categories of their objects as labels.

    An image without objects has none of the categories. The images lie beside the file, in a folder `images` there or
    one level up, or in a folder with the last part of the file's name (`val2017` of `instances_val2017.json`). Several
    files are splits, recognised by their names.

    Args:
        root: the folder of the files.
        files: the annotation files.
        columns: whether labels are needed.

    Raises:
        DataError: a file is broken or of another form; file and entry are named.
    """
    builder, row = ListingBuilder(), 0
    splits = splits_of_files([file.name for file in files]) if columns.labelled else ["train"] * len(files)
    for file, split in zip(files, splits, strict=True):
        content = load_coco(file)
        names = read_categories(content, file)
        images = list(read_images(content, file))
        labels = _labels(content, names, file)
        folder = image_folder(file, [name for _, name in images])
        scope = str(root.resolve())
        for image_id, name in images:
            path = Path(*folder.parts, name).as_posix()
            found = inspect_file(root / path, path, scope)
            if found.fault:
                builder.reject(found.path, f"{found.fault} ({file.name}, image {image_id})")
            else:
                present = tuple(names[number] for number in sorted(labels.get(image_id, ())))
                builder.add(found.path, LabelSet(present) if columns.labelled else None, split, row, found.key)
            row += 1
    return builder.listing(FileReader(root))


def load_coco(file: Path) -> Mapping[str, Any]:
    """Return the content of a file of annotations. DataError if it lacks images, annotations or categories."""
    content = read_brought_json(file, DataError)
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        captions = " It contains captions: name the file with text (--text), and the images by another source."
        has_captions = "categories" in missing and isinstance(content.get("annotations"), list)
        raise DataError(
            f"{file} is not a COCO label file: it has no list "
            f"{', '.join(map(repr, missing))}.{captions if has_captions else ''}"
        )
    return dict(content)


def read_categories(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    """Return the names of the categories by number. DataError names one that is broken."""
    found: dict[int, str] = {}
    for at, each in enumerate(content["categories"]):
        number, name = (each.get("id"), each.get("name")) if isinstance(each, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(name, str) or not name.strip() or number in found:
            raise DataError(f"{file}, category {at}: {each!r} has no name, or no unique number (id).")
        found[number] = name.strip()
    return found


def read_images(content: Mapping[str, Any], file: Path) -> Iterator[tuple[int, str]]:
    """Yield number and file name of the images. DataError names one that is broken."""
    seen: set[int] = set()
    for at, each in enumerate(content["images"]):
        number, name = (each.get("id"), each.get("file_name")) if isinstance(each, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(name, str) or not name or "\0" in name or number in seen:
            raise DataError(f"{file}, image {at}: {each!r} has no file_name, or no unique number (id).")
        seen.add(number)
        yield number, name


def _labels(content: Mapping[str, Any], names: Mapping[int, str], file: Path) -> dict[int, set[int]]:
    """Return the categories of the objects in each image, by its number."""
    found: dict[int, set[int]] = {}
    known = {each.get("id") for each in content["images"] if isinstance(each, dict)}
    for at, each in enumerate(content["annotations"]):
        image, category = (each.get("image_id"), each.get("category_id")) if isinstance(each, dict) else (None, None)
        if image is None or image not in known:
            raise DataError(
                f"{file}, annotation {at}: image_id {image!r} is not among its images. Add the image, or remove "
                "the annotation."
            )
        if category is None or category not in names:
            raise DataError(
                f"{file}, annotation {at}: category_id {category!r} is not among its categories. Add the category, or "
                "remove the annotation."
            )
        found.setdefault(int(image), set()).add(int(category))
    return found


def image_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder that holds the first image that is found, relative to that of the annotations."""
    part = file.stem.rpartition("_")[2]
    places = [Path(up, inner, name) for up in ("", "..") for inner in ("", "images") for name in ("", part)]
    for name in names[:100]:
        for place in places:
            if (file.parent / place / name).is_file():
                return place
    return Path()
