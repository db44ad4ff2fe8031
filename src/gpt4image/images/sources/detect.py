"""The kinds of image sources, and how they are recognised.

To add a kind, write a function that lists its images (`Listing`) and a reader of their bytes (`ImageReader`), and add
an entry to `KINDS`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gpt4image.core.console import say
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.hub import HUB_PREFIX
from gpt4image.core.memory import pause_garbage_collection
from gpt4image.core.tables import ARROW_SUFFIXES, TABLE_SUFFIXES, Table
from gpt4image.images.sources.annotations import (
    find_fiftyone,
    is_label_studio,
    list_fiftyone,
    list_label_studio,
)
from gpt4image.images.sources.clip_folders import holds_clips_only, list_clips
from gpt4image.images.sources.coco import is_coco, list_coco
from gpt4image.images.sources.coco_boxes import find_coco_files, list_coco_boxes
from gpt4image.images.sources.coco_masks import list_coco_masks
from gpt4image.images.sources.folders import (
    has_class_folders,
    holds_images,
    is_hidden,
    list_class_folders,
    subfolders,
)
from gpt4image.images.sources.hugging_face import list_hub_dataset, list_saved_dataset, list_table_files
from gpt4image.images.sources.listing import ColumnNames, Listing
from gpt4image.images.sources.manifest import find_metadata, list_manifest, list_metadata_folder, names_files
from gpt4image.images.sources.mask_files import find_mask_folders, list_mask_folders
from gpt4image.images.sources.remote import is_address
from gpt4image.images.sources.tars import is_webdataset, list_tars
from gpt4image.images.sources.voc import find_voc_files, list_voc
from gpt4image.images.sources.yolo import find_yolo_files, is_yolo, list_yolo
from gpt4image.images.splits import split_named

COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")


@dataclass(frozen=True)
class Place:
    """Where a source lies.

    Attributes:
        name: the source as the user named it.
        root: the folder that the source is, or that holds its files; the name itself if nothing lies there.
        named: the files that the user named, by a path or a pattern; empty for a folder or a name on the hub.
    """

    name: str
    root: Path
    named: tuple[Path, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether the user named a folder."""
        return not self.named and self.root.is_dir()

    def files(self, suffixes: tuple[str, ...]) -> list[Path]:
        """Return the files of some suffixes: those named, else those in the folder as the hub lays them out."""
        candidates = list(self.named)
        if self.is_folder:
            inner = [name for name in subfolders(self.root) if name == "data" or split_named(name)]
            candidates = sorted(file for folder in ("", *inner) for file in (self.root / folder).iterdir())
        found = [file for file in candidates if file.suffix.casefold() in suffixes and not is_hidden(file.name)]
        return [file for file in found if file.is_file()]


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        name: what the user can name.
        find: returns the files of the source that list its images, None if the place is of another kind.
        list: lists the images of a source, given its `root`, those files, and the columns that the user names.
        keeps: whether `list` takes a folder as well, in which it keeps what takes long to find out or to fetch.
        has_columns: whether the user can name its columns, or the keys that stand for them.
    """

    name: str
    find: Callable[[Place, ColumnNames], Sequence[Path] | None]
    list: Callable[..., Listing]
    keeps: bool = False
    has_columns: bool = False


def _find_clips(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    if columns.frames is not None and not place.is_folder:
        raise DataError(
            f"{place.name}: frames (--frames) needs a folder of class folders with clips: name such a folder."
        )
    return [] if place.is_folder and (columns.frames is not None or holds_clips_only(place.root)) else None


def _find_saved_dataset(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    def holds_rows(mark: Path) -> bool:
        return any(mark.parent.glob("*.arrow")) or any(mark.parent.glob("*/*.arrow"))

    names = ("dataset_dict.json", "state.json") if place.is_folder else ()
    marks = [place.root / name for name in names if (place.root / name).is_file()]
    return None if not marks or _lie_beside_images(place, marks, columns, holds_rows) else marks


def _find_fiftyone(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return (find_fiftyone(place.root) or None) if place.is_folder else None


def _find_label_studio(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return place.named if len(place.named) == 1 and is_label_studio(place.named[0]) else None


def _find_coco(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return place.named if place.named and all(map(is_coco, place.named)) else None


def _find_coco_objects(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return (find_coco_files(place.root) or None) if place.is_folder else _find_coco(place, columns)


def _find_mask_folders(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return (find_mask_folders(place.root) or None) if place.is_folder else None


def _find_yolo(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    if place.is_folder:
        return find_yolo_files(place.root) or None
    return place.named if len(place.named) == 1 and is_yolo(place.named[0]) else None


def _find_voc(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return (find_voc_files(place.root) or None) if place.is_folder else None


def _find_metadata(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    def names_images(file: Path) -> bool:
        return names_files(file, columns.image)

    files = find_metadata(place.root, columns) if place.is_folder else []
    return None if not files or _lie_beside_images(place, files, columns, names_images) else files


def _find_manifest(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    found = [] if place.is_folder else place.files(TABLE_SUFFIXES)
    if len(found) != 1 or (found[0].suffix.casefold() in ARROW_SUFFIXES and not names_files(found[0], columns.image)):
        return None
    return found


def _find_tables_of_images(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    def holds_bytes(file: Path) -> bool:
        return Table(file).holds_bytes()

    files = place.files(ARROW_SUFFIXES)
    beside = not files or _lie_beside_images(place, files, columns, holds_bytes)
    return None if beside else _of_one_kind(files, place.root)


def _find_tars(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    files = place.files((".tar",))
    return None if not files or _lie_beside_images(place, files, columns, is_webdataset) else files


def _lie_beside_images(
    place: Place, files: Sequence[Path], columns: ColumnNames, is_image_set: Callable[[Path], bool]
) -> bool:
    """Whether files are no image set but lie in one: captions or the original archive beside class folders."""
    has_images = has_class_folders if columns.labelled else holds_images
    if not place.is_folder or not has_images(place.root):
        return False
    broken = {}  # a source without readable images is not the one that the user means
    for file in files:
        try:
            if is_image_set(file):
                return False
        except DataError as error:
            broken[file] = f" ({str(error).removeprefix(str(file)).strip()})"
    kind = "class folders" if columns.labelled else "a folder of images"
    beside = ", ".join(f"{file.name}{broken.get(file, '')}" for file in files)
    say(f"{place.root} is read as {kind}; {beside} is ignored.", "yellow" if broken else "")
    return True


def _find_folder(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    return [] if place.is_folder else None


def _find_hub_name(place: Place, columns: ColumnNames) -> Sequence[Path] | None:
    if place.named or place.root.exists():
        return None
    name = place.name.removeprefix(HUB_PREFIX)
    # `owner/name` without a prefix may be a mistyped path: it is if the folder `owner` exists.
    asked = name != place.name or ("/" in name and not place.root.parent.exists())
    return [] if asked and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) else None


# The first kind that finds its files is used.
KINDS = (
    Kind(
        "a folder of clips (videos in class folders; with frames (--frames) also folders of frames)",
        _find_clips,
        list_clips,
        True,
    ),
    Kind("a folder written by save_to_disk", _find_saved_dataset, list_saved_dataset, has_columns=True),
    Kind("a FiftyOneImageClassificationDataset", _find_fiftyone, list_fiftyone),
    Kind("an export of Label Studio (JSON)", _find_label_studio, list_label_studio, keeps=True),
    Kind("a file of COCO's annotations (JSON)", _find_coco, list_coco),
    Kind(
        "a folder with metadata.csv, metadata.jsonl or metadata.parquet",
        _find_metadata,
        list_metadata_folder,
        has_columns=True,
    ),
    Kind(
        "a table that names image files (CSV, TSV, JSON Lines, Parquet or Arrow)",
        _find_manifest,
        list_manifest,
        keeps=True,
        has_columns=True,
    ),
    Kind("Parquet or Arrow files that hold images", _find_tables_of_images, list_table_files, has_columns=True),
    Kind("WebDataset tars", _find_tars, list_tars, keeps=True, has_columns=True),
    Kind("a folder of class folders", _find_folder, list_class_folders),
    Kind(
        "the name of a dataset on the Hugging Face hub (OWNER/NAME or hf:NAME)",
        _find_hub_name,
        list_hub_dataset,
        has_columns=True,
    ),
)

BOX_KINDS = (
    Kind("a file of COCO's annotations (JSON), or a folder with some", _find_coco_objects, list_coco_boxes),
    Kind("a YOLO folder or its data.yaml", _find_yolo, list_yolo),
    Kind("a folder of Pascal VOC (XML)", _find_voc, list_voc),
)
"""The kinds of sources with boxes, likewise."""

MASK_KINDS = (
    Kind("a folder with folders of images and masks", _find_mask_folders, list_mask_folders),
    Kind("a file of COCO's annotations (JSON), or a folder with some", _find_coco_objects, list_coco_masks),
)
"""The kinds of sources with masks, likewise."""


@pause_garbage_collection()
def list_source(source: str | Path, columns: ColumnNames, kept: Path | None = None) -> Listing:
    """List the images of a source of any kind.

    Args:
        source: the source as the user named it.
        columns: the columns that the user names.
        kept: a folder for listings that take long to make, and for fetched images; None for none.

    Raises:
        ConfigError: the user names columns of a source that has none.
        DataError: the source does not exist or is of no known kind.
    """
    place = find_place(str(source))
    kinds = {"": KINDS, "boxes": BOX_KINDS, "masks": MASK_KINDS}[columns.objects]
    for kind in kinds:
        files = kind.find(place, columns)
        if files is not None:
            _check_columns(kind, columns, str(source))
            listing = kind.list(place.root, files, columns, *([kept] if kind.keeps else []))
            return listing if columns.labelled else listing.without_labels()
    of = f" of {columns.objects}" if columns.objects else ""
    known = f"A source{of} is {', '.join(kind.name for kind in kinds[:-1])}, or {kinds[-1].name}."
    if place.is_folder:
        raise DataError(f"{place.root} contains no readable {columns.objects}. {known}")
    if not place.named:
        raise _missing(place, known)
    if place.named[0].suffix.casefold() in COMPRESSED_SUFFIXES:
        raise DataError(f"{place.named[0]} is compressed. Unpack it first, or keep it as a plain .tar.")
    raise DataError(f"{place.named[0]} is not an image source. {known}")


def _check_columns(kind: Kind, columns: ColumnNames, source: str) -> None:
    """Raise ConfigError if the user names columns of labelled images that have none."""
    named = columns.image is not None or columns.label is not None or columns.separator is not None or columns.flags
    if named and columns.labelled and not kind.has_columns:
        raise ConfigError(
            f"{source} is {kind.name}, which has no columns: leave out image_column (--image-column), label_column "
            "(--label-column), label_separator (--label-separator) and label_columns (--label-columns)."
        )


def require_source(source: str) -> None:
    """Raise DataError if nothing lies where a source should be, before anything is read."""
    if not is_address(source):
        place = find_place(source)
        if not place.named and not place.root.exists() and _find_hub_name(place, ColumnNames()) is None:
            raise _missing(place)


def _missing(place: Place, known: str = "") -> DataError:
    return DataError(f"{place.root} does not exist. {near(place.root)}{known}".rstrip())


def near(path: Path) -> str:
    """Return a question that names the most similar file or folder beside a path; nothing if there is none."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    found = get_close_matches(path.name, beside, n=1)
    return f"Did you mean {path.with_name(found[0])}? " if found else ""


def find_place(source: str) -> Place:
    """Find the folder or files that a source means. DataError if a pattern matches no file, or several kinds."""
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir():
        return Place(source, path.parent, (path,))
    if path.is_dir() or not re.search(r"[*?\[{]", source):
        return Place(source, path)
    files = _of_one_kind(expand_pattern(str(path)), path)
    root = files[0].parent
    while not all(file.is_relative_to(root) for file in files):
        root = root.parent
    return Place(source, root, tuple(files))


def _of_one_kind(files: list[Path], where: Path) -> list[Path]:
    suffixes = {file.suffix.casefold() for file in files}
    if len(suffixes) > 1:
        raise DataError(f"{where} mixes {' and '.join(sorted(suffixes))} files. Name files of one kind.")
    return files


def expand_pattern(pattern: str) -> list[Path]:
    """Return the files that a pattern with braces and wildcards names. DataError if one part of it names none."""
    files: list[Path] = []
    for part in expand_braces(pattern):
        found = sorted(map(Path, glob.glob(part, recursive=True)))  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise DataError(f"{part} does not exist (from the pattern {pattern}).")
        files.extend(found)
    return list(dict.fromkeys(files))


def expand_braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and `{000..012}` as a shell does.

    >>> expand_braces("a-{08..10}.{x,y}")
    ['a-08.x', 'a-08.y', 'a-09.x', 'a-09.y', 'a-10.x', 'a-10.y']
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        options = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        options = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(dict.fromkeys(rest for option in options for rest in expand_braces(before + option + after)))
