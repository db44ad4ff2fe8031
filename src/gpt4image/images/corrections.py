"""Label corrections: a person's decisions about images, stored separately from the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.format import counted, shorten
from gpt4image.core.tables import Table, compose, is_missing
from gpt4image.images.sources.annotations import is_label_studio, read_fiftyone, read_label_studio
from gpt4image.images.sources.listing import to_label_column
from gpt4image.images.table import ImageTable, RejectedImage

Decision = Literal["relabel", "keep", "drop"]
COLUMNS = ("id", "path", "given", "decision", "label")


@dataclass(frozen=True)
class Correction:
    """The decision about one image.

    Attributes:
        decision: `relabel` it, `keep` its label, or `drop` it from the set.
        label: its new class, for `relabel`.
        given: its label at the time of the decision, "" for none or several.
        where: file and row, for messages.
    """

    decision: Decision
    label: str
    given: str
    where: str


def read_corrections(path: Path) -> dict[str, Correction]:
    """Read corrections by image id. If an image has several, the last one counts.

    Args:
        path: a table with the columns `id`, `decision` and `label`, as saved by the page of `gpt4image audit`; or the
            annotations of files written by `audit --write`, from Label Studio (its JSON export) or FiftyOne
            (`labels.json`).

    Raises:
        DataError: the file or a row is broken; the message names the row.
    """
    return dict(_annotated(path) if path.suffix.casefold() == ".json" else _rows(Table(path)))


def _annotated(path: Path) -> Iterator[tuple[str, Correction]]:
    """Yield the decisions in Label Studio, or the labels in FiftyOne that differ from those exported to it."""
    studio = is_label_studio(path)
    for number, found in enumerate(read_label_studio(path) if studio else read_fiftyone(path), 1):
        image_id = found.data.get("id" if studio else "image_id")
        where = f"{path}, {'task' if studio else 'image'} {number}"
        if found.fault:
            raise DataError(f"{where}: {found.fault}. An image has one label.")
        if not image_id:
            raise DataError(f"{where} has no image id: it was not written by gpt4image audit.")
        given = str(found.data.get("given") or "")
        if found.label is not None and (studio or found.label != given):
            decision: Decision = "keep" if found.label == given else "relabel"
            yield str(image_id), Correction(decision, compose(found.label), compose(given), where)


def _rows(table: Table) -> Iterator[tuple[str, Correction]]:
    for number, row in table.rows():
        where = table.where(number)
        if not {"id", "decision"} <= set(row):
            raise DataError(
                f"{where}: corrections need the columns {', '.join(COLUMNS)}; this file has {', '.join(row)}."
            )
        decision, label, given = (
            "" if is_missing(row.get(name)) else str(row[name]) for name in ("decision", "label", "given")
        )
        if decision not in get_args(Decision):
            raise DataError(f"{where}: the decision must be one of {', '.join(get_args(Decision))}, not {decision!r}.")
        if decision == "relabel" and not label:
            raise DataError(f"{where}: an image to relabel needs a label.")
        yield str(row["id"]), Correction(decision, compose(label), compose(given), where)  # type: ignore[arg-type] # checked above


def label_in_words(name: str, present: bool) -> str:
    """Return the name of one of several labels in corrections.

    >>> label_in_words("cat", True), label_in_words("cat", False)
    ('with cat', 'without cat')
    """
    return f"{'with' if present else 'without'} {compose(name)}"


def read_set_corrections(path: Path) -> list[tuple[str, Correction]]:
    """Read corrections of images with several labels each, as the page of `gpt4image audit` saves them.

    `label` and `given` are of one class, such as `with cat` or `without cat`; an image may have several rows.

    Raises:
        DataError: the file or a row is broken; the message names the row.
    """
    if path.suffix.casefold() == ".json":
        raise DataError(
            f"{path}: with several labels per image, corrections must be a table saved by the page of gpt4image audit."
        )
    return list(_rows(Table(path)))


def apply_corrections(images: ImageTable, path: Path) -> ImageTable:
    """Return the images with corrected labels and without dropped ones, and report the changes.

    Images are found by id, so corrections survive renamed and moved files.

    Raises:
        DataError: the file is broken, names an unknown class, or is about other images.
    """
    ids = images.rows["id"].to_pylist()
    dropped, done = np.zeros(len(ids), dtype=bool), Counter[str]()
    if images.has_boxes:
        images.check_one_class()
    if images.has_label_sets:
        several = read_set_corrections(path)
        labels = to_label_column(_correct_sets(images, several, dropped, done))
        asked = {image_id for image_id, _ in several}
    else:
        corrections = read_corrections(path)
        labels = to_label_column(_correct(images, corrections, dropped, done))
        asked = set(corrections)
    if asked and not done["found"]:
        raise DataError(
            f"{path}: none of its {counted(len(asked), 'image')} is in {images.source}. Images are matched by id, the "
            "hash of the file, so corrections stay valid when files are renamed or moved, but not when they are "
            "re-encoded. Name the audited set, or leave out corrections."
        )
    lost = len(asked - set(ids))
    notes = [f"{done['relabelled']:,} relabelled, {int(dropped.sum()):,} dropped, {done['kept']:,} kept"]
    notes += [f"{counted(lost, 'image')} not in this set"] if lost else []
    notes += [f"{done['changed since']:,} had another label when they were audited"] if done["changed since"] else []
    style = "yellow" if lost or done["changed since"] else ""
    say(f"corrections: {'; '.join(notes)} ({shorten(str(path), 60)})", style)
    column = images.rows.schema.get_field_index("label")
    rows = images.rows.set_column(column, images.rows.schema.field(column), labels)
    gone = tuple(RejectedImage(name, "dropped by a correction") for name in rows["path"].filter(dropped).to_pylist())
    return replace(images, rows=rows.filter(~dropped).combine_chunks(), rejected=(*images.rejected, *gone))


def _correct(
    images: ImageTable, corrections: Mapping[str, Correction], dropped: np.ndarray, done: Counter[str]
) -> np.ndarray:
    """Return corrected labels [N], mark images to drop, bool [N], and count the changes."""
    classes = {compose(name): number for number, name in enumerate(images.classes)}
    labels = images.labels
    for row, image_id in enumerate(images.rows["id"].to_pylist()):
        found = corrections.get(image_id)
        if found is None:
            continue
        done["found"] += 1
        before = compose(images.classes[labels[row]]) if labels[row] >= 0 else ""
        if found.decision == "drop":
            dropped[row] = True
        elif found.decision == "keep":
            done["kept"] += 1
        elif found.decision == "relabel" and before != found.label:
            if found.label not in classes:
                raise _unknown_class(images, found)
            labels[row] = classes[found.label]
            done["relabelled"] += 1
            done["changed since"] += found.given not in ("", before)
    return labels


def _correct_sets(
    images: ImageTable, corrections: Sequence[tuple[str, Correction]], dropped: np.ndarray, done: Counter[str]
) -> np.ndarray:
    """Return corrected labels of several classes, int8 [N, C]; for the rest see `_correct`."""
    named = {
        label_in_words(name, present): (number, int(present))
        for number, name in enumerate(images.classes)
        for present in (True, False)
    }
    marks, rows_of = images.label_matrix, dict[str, list[int]]()
    for row, image_id in enumerate(images.rows["id"].to_pylist()):
        rows_of.setdefault(image_id, []).append(row)
    for image_id, found in corrections:
        for row in rows_of.get(image_id, ()):
            done["found"] += 1
            if found.decision == "drop":
                dropped[row] = True
            elif found.decision == "keep":
                done["kept"] += 1
            else:
                if found.label not in named:
                    raise _unknown_class(images, found)
                label, mark = named[found.label]
                if marks[row, label] != mark:
                    given = named.get(found.given)
                    done["relabelled"] += 1
                    done["changed since"] += given is not None and given != (label, marks[row, label])
                    marks[row, label] = mark
    return marks


def _unknown_class(images: ImageTable, found: Correction) -> DataError:
    known = ", ".join(map(repr, images.classes[:10]))
    several = "; write with NAME or without NAME" if images.has_label_sets else ""
    return DataError(f"{found.where}: {found.label!r} is not a class of {images.source}. Classes: {known}{several}.")
