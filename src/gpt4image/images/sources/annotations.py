"""JSON labels of annotation tools: Label Studio's exports and FiftyOne's image classification sets.

Both are image sources, and both come back as corrections after an audit (`gpt4image audit --write`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gpt4image.core.errors import DataError
from gpt4image.core.files import read_brought_json
from gpt4image.images.decode import IMAGE_SUFFIXES
from gpt4image.images.sources.folders import (
    FetchedImages,
    FileReader,
    FoundFile,
    inspect_file,
    locate,
    split_folders,
)
from gpt4image.images.sources.listing import ColumnNames, Listing, ListingBuilder
from gpt4image.images.sources.split_columns import SplitColumns, find_split_columns
from gpt4image.images.splits import require_split

FIFTYONE = "labels.json"
DATA_KEYS = ("image", "img", "url", "path", "file_name")


@dataclass(frozen=True)
class Annotation:
    """A person's annotation of one image.

    Attributes:
        image: path or address of the image, as the tool has it.
        label: its class; None for none.
        fault: why it has no single class, though people have decided; empty if it has, or none has decided.
        data: what came with it, such as a description.
    """

    image: str
    label: str | None
    fault: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def read_label_studio(file: Path) -> list[Annotation]:
    """Read an export of Label Studio, JSON or JSON-MIN, with one choice an image.

    Cancelled annotations are ignored; if one is marked as ground truth, only that one counts.

    Raises:
        DataError: the file is no such export; the task is named.
    """
    tasks = read_brought_json(file, DataError)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{file} is not an export of Label Studio: it is not a list of tasks.")
    return [_read_task(task, f"{file}, task {number}") for number, task in enumerate(tasks, 1)]


def is_label_studio(file: Path) -> bool:
    """Whether a JSON file is an export of Label Studio."""
    if file.suffix.casefold() != ".json":
        return False
    found = read_brought_json(file, DataError)
    first = found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
    return isinstance(first.get("data"), dict) or ("annotation_id" in first or "annotator" in first)


def _read_task(task: Mapping[str, Any], where: str) -> Annotation:
    data = task["data"] if isinstance(task.get("data"), dict) else task  # JSON-MIN has all in one
    key = next((name for name in DATA_KEYS if isinstance(data.get(name), str)), None)
    if key is None:
        strings = [name for name, value in data.items() if isinstance(value, str)]
        key = next((name for name in strings if PurePosixPath(data[name]).suffix.casefold() in IMAGE_SUFFIXES), None)
    if key is None:
        raise DataError(
            f"{where} names no image ({', '.join(DATA_KEYS)}): its data has {', '.join(data) or 'nothing'}."
        )
    rest = {name: value for name, value in data.items() if name != key}
    if data is task:
        said = [value for name, value in rest.items() if name in ("choice", "label", "class")]
        answers = {tuple(value["choices"]) if isinstance(value, dict) else (str(value),) for value in said}
    else:
        done = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
        done = [each for each in done if each.get("ground_truth")] or done
        answers = {tuple(_choices(each)) for each in done} - {()}
    if not answers:
        return Annotation(data[key], None, data=rest)
    if len(answers) > 1 or len(next(iter(answers))) > 1:
        named = sorted({name for answer in answers for name in answer})
        reason = "annotators disagree" if len(answers) > 1 else "has several labels"
        return Annotation(data[key], None, f"{reason}: {', '.join(named)}", rest)
    return Annotation(data[key], next(iter(answers))[0], data=rest)


def _choices(annotation: Mapping[str, Any]) -> list[str]:
    results = [each.get("value", {}) for each in annotation.get("result") or () if each.get("type") == "choices"]
    return [str(name) for value in results for name in value.get("choices", ())]


def read_fiftyone(file: Path) -> list[Annotation]:
    """Read the `labels.json` of a FiftyOneImageClassificationDataset; the images are their names without a suffix.

    Raises:
        DataError: the file is of another form, or a label is no class.
    """
    found = read_brought_json(file, DataError)
    if not isinstance(found, dict) or not isinstance(found.get("labels"), dict):
        raise DataError(f"{file} is not a FiftyOne label file: it has no object `labels`.")
    classes = found.get("classes") or []
    return [_read_fiftyone(name, value, classes, f"{file}, {name!r}") for name, value in found["labels"].items()]


def _read_fiftyone(name: str, value: object, classes: Sequence[str], where: str) -> Annotation:
    record = value if isinstance(value, dict) else {}
    label = record.get("label") if isinstance(value, dict) else value
    if isinstance(label, list):
        return Annotation(name, None, f"has several labels: {', '.join(map(str, label))}")
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            raise DataError(f"{where}: label {label} is not one of the {len(classes)} classes.")
        label = classes[label]
    return Annotation(name, None if label is None else str(label), data=record.get("attributes") or {})


def list_label_studio(root: Path, files: Sequence[Path], columns: ColumnNames, kept: Path | None = None) -> Listing:
    """List the images of a Label Studio export: files beside it, by the path or the name of an uploaded file, or images
    at addresses.

    Args:
        root: the export's folder.
        files: the export.
        columns: the columns that the user names.
        kept: the folder that keeps images that are fetched; None for none.

    Raises:
        ConfigError: there are addresses, and no folder that keeps what is fetched.
        DataError: the file is no export, or nothing in it has a label.
    """
    (file,) = files
    builder, texts = ListingBuilder(), dict[str, None]()
    annotations = read_label_studio(file)
    values: list[Mapping[str, Any]] = []
    paths = [_path_here(root, found.image) or found.image for found in annotations]
    fetched = FetchedImages.of(paths, file, kept)
    split = SplitColumns()
    if columns.labelled:
        keys = tuple(dict.fromkeys(key for found in annotations for key in found.data))
        split = find_split_columns(keys, lambda key: (found.data.get(key) for found in annotations), (), str(file))
    for row, (path, found) in enumerate(zip(paths, annotations, strict=True)):
        values.append(found.data)
        texts.update(dict.fromkeys(name for name, value in found.data.items() if isinstance(value, str)))
        seen = fetched.inspect(path) or _inspect(root, locate(root, path))
        note = f"{file.name} task {row + 1}"
        _add(builder, seen, found, split.read(found.data, note) or "train", row, note)
    if columns.labelled and not builder.has_labels:
        raise DataError(
            f"{file}: no task has a choice yet. Annotate some, or name the file with unlabelled (--unlabelled)."
        )
    return builder.listing(AnnotationReader(root, tuple(texts), fetched.folder, tuple(values)))


def _path_here(root: Path, image: str) -> str | None:
    return next((name for name in _places(image) if (root / locate(root, name)).is_file()), None)


def _places(image: str) -> Iterator[str]:
    """Yield where an image of Label Studio may lie, relative to the export or absolute."""
    parts = urlsplit(image)
    local = parse_qs(parts.query).get("d")
    path = unquote(local[0] if local else parts.path or image)
    yield path
    yield path.lstrip("/")
    name = PurePosixPath(path).name
    yield name
    head, dash, tail = name.partition("-")
    if dash and len(head) == 8:  # uploads get a prefix of eight hex digits
        yield tail
        yield f"images/{tail}"
    yield f"images/{name}"


def find_fiftyone(root: Path) -> list[Path]:
    """Return the files of labels of a FiftyOne set: its own, else those of its split folders."""
    folders = [root, *(root / name for name in split_folders(root))]
    found = [folder / FIFTYONE for folder in folders if (folder / FIFTYONE).is_file()]
    return [file for file in found if (file.parent / "data").is_dir() or (file.parent / "data.json").is_file()]


def list_fiftyone(root: Path, files: Sequence[Path], columns: ColumnNames) -> Listing:
    """List the images of a FiftyOneImageClassificationDataset, in `data/` or where `data.json` says.

    Raises:
        DataError: a file is of another form.
    """
    builder = ListingBuilder()
    row = 0
    for file in files:
        folder = file.parent
        split = "train" if folder == root or not columns.labelled else require_split(folder.name, str(folder))
        named = read_brought_json(folder / "data.json", DataError) if (folder / "data.json").is_file() else {}
        data = folder / "data"
        places = {path.stem: path for path in sorted(data.rglob("*")) if path.is_file()}
        places |= {path.relative_to(data).with_suffix("").as_posix(): path for path in places.values()}
        places |= {name: data / str(path) for name, path in named.items() if path}
        for found in read_fiftyone(file):
            path = places.get(found.image, data / found.image)
            name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
            note = f"{file.relative_to(root).as_posix()} {found.image!r}"
            _add(builder, _inspect(root, name), found, split, row, note)
            row += 1
    return builder.listing(FileReader(root))


def _inspect(root: Path, path: str) -> FoundFile:
    return inspect_file(root / path, path, str(root.resolve()))


def _add(builder: ListingBuilder, seen: FoundFile, found: Annotation, split: str, row: int, note: str) -> None:
    if seen.fault or found.fault:
        builder.reject(seen.path, f"{seen.fault or found.fault} ({note})")
    else:
        builder.add(seen.path, found.label, split, row, seen.key)


@dataclass(frozen=True)
class AnnotationReader(FileReader):
    """Reads image files, and what came with them.

    Attributes:
        values: the texts of each image by name.
    """

    values: tuple[Mapping[str, Any], ...] = ()

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text's values for some rows."""
        found = [self.values[row].get(column) for row in rows]
        return [value if isinstance(value, str) and value else None for value in found]
