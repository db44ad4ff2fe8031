"""A folder of class folders, with or without split folders above them."""

from __future__ import annotations

from pathlib import Path

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.images.sources.files import FileReader, FoundFile, is_image_name, subfolders, walk
from gpt4image.images.sources.listing import Listing, ListingBuilder
from gpt4image.images.splits import require_split, split_named
from gpt4image.images.table import SPLITS


def split_folders(root: Path) -> dict[str, str]:
    """Folder name -> split, empty when the folder is not divided into splits.

    A folder is divided when all its folders are named after splits, or `train` and one more are. A lone folder
    `train` among others is taken for a class.

    Raises:
        DataError: the folder is divided and one of its folders is no split.
    """
    names = subfolders(root)
    known = {name: split for name in names if (split := split_named(name))}
    divided = bool(known) and (len(known) == len(names) or (len(known) > 1 and "train" in known.values()))
    if not divided:
        return {}
    splits = {name: require_split(name, str(root / name)) for name in names}
    return dict(sorted(splits.items(), key=lambda item: SPLITS.index(item[1])))


def list_class_folders(root: Path) -> Listing:
    """List a folder of class folders; classes and images come in the order of torchvision's ImageFolder.

    Raises:
        DataError: there are no class folders.
    """
    divisions = split_folders(root) or {"": "train"}
    builder = ListingBuilder()
    names: list[str] = []
    for folder, split in divisions.items():
        for found in sorted(walk(root, folder), key=lambda found: (*_class_of(found, folder), found.path)):
            name, _ = _class_of(found, folder)
            if not is_image_name(found.path):
                builder.ignore(found.path, f"not an image (suffix {Path(found.path).suffix})")
            elif found.fault:
                builder.reject(found.path, found.fault)
            elif not name:
                builder.ignore(found.path, "lies in no class folder")
            else:
                names.append(name)
                builder.add(found.path, name, split, len(names) - 1, found.key)
    if not names:
        raise DataError(_nothing_found(root, divisions))
    classes = sorted(set(names))
    _tell_empty(root, divisions, set(classes))
    return builder.listing(FileReader(root), classes)


def _class_of(found: FoundFile, folder: str) -> tuple[str, str]:
    """A file's class, empty when it lies in no class folder, and its folder."""
    parent = found.path.rpartition("/")[0]
    inner = parent.removeprefix(folder).removeprefix("/")
    return inner.partition("/")[0], parent


def _tell_empty(root: Path, divisions: dict[str, str], classes: set[str]) -> None:
    empty = {name for folder in divisions for name in subfolders(root / folder)} - classes
    if empty:
        say(f"Folders without an image, which make no class: {', '.join(sorted(empty))}.")


def _nothing_found(root: Path, divisions: dict[str, str]) -> str:
    inside = f" in {', '.join(divisions)}" if "" not in divisions else ""
    tables = sorted(path.name for path in root.iterdir() if path.suffix in (".csv", ".tsv", ".jsonl"))
    hint = f" If {tables[0]} names the images, give that file as the source." if tables else ""
    return (
        f"{root} holds no class folders with images{inside}. Put each class's images in a folder of its own "
        f"(cats/1.jpg, dogs/2.jpg), below train/, val/ and test/ if it is divided.{hint}"
    )
