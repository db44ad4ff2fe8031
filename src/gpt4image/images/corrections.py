"""Corrections of labels: what a person decided about images, kept apart from the images themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from gpt4image.core.console import say
from gpt4image.core.errors import DataError
from gpt4image.core.format import counted, shorten
from gpt4image.core.tables import Table, compose, is_missing
from gpt4image.images.sources.annotations import is_label_studio, read_fiftyone, read_label_studio
from gpt4image.images.table import ImageTable, RejectedImage

Decision = Literal["relabel", "keep", "drop"]
COLUMNS = ("id", "path", "given", "decision", "label")


@dataclass(frozen=True)
class Correction:
    """What was decided about one image.

    Attributes:
        decision: `relabel` it, `keep` its label, or `drop` it from the set.
        label: its class from now on, for `relabel`.
        given: its label when this was decided, "" for none or several.
        where: file and row, for messages.
    """

    decision: Decision
    label: str
    given: str
    where: str


def read_corrections(path: Path) -> dict[str, Correction]:
    """Read corrections by image id. Of several for one image the last counts.

    Args:
        path: a table with the columns `id`, `decision` and `label`, such as the page of `gpt4image audit` saves; or
            what came back from Label Studio (its JSON export) or FiftyOne (`labels.json`) of what `audit --write`
            wrote for it.

    Raises:
        DataError: the file or a row is broken; the row is named.
    """
    return dict(_annotated(path) if path.suffix.casefold() == ".json" else _rows(Table(path)))


def _annotated(path: Path) -> Iterator[tuple[str, Correction]]:
    """Yield the decisions of people in Label Studio, or labels of FiftyOne that differ from those it was given."""
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
            raise DataError(f"{where}: corrections have the columns {', '.join(COLUMNS)}; this has {', '.join(row)}.")
        decision, label, given = (
            "" if is_missing(row.get(name)) else str(row[name]) for name in ("decision", "label", "given")
        )
        if decision not in get_args(Decision):
            raise DataError(f"{where}: the decision is {decision!r}; known are {', '.join(get_args(Decision))}.")
        if decision == "relabel" and not label:
            raise DataError(f"{where}: an image to relabel needs a label.")
        yield str(row["id"]), Correction(decision, compose(label), compose(given), where)  # type: ignore[arg-type] # checked above


def apply_corrections(images: ImageTable, path: Path) -> ImageTable:
    """Return the images with corrected labels, without those to be dropped, and say what was done.

    Images are found by id, so corrections survive renamed and moved files.

    Raises:
        DataError: the file is broken, names an unknown class, or is about other images.
    """
    corrections = read_corrections(path)
    classes = {compose(name): number for number, name in enumerate(images.classes)}
    labels, ids = images.labels, images.rows["id"].to_pylist()
    done: Counter[str] = Counter()
    dropped = np.zeros(len(ids), dtype=bool)
    for row, image_id in enumerate(ids):
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
                known = ", ".join(map(repr, images.classes[:10]))
                raise DataError(f"{found.where}: {found.label!r} is no class of {images.source}. Classes: {known}.")
            labels[row] = classes[found.label]
            done["relabelled"] += 1
            done["changed since"] += found.given not in ("", before)
    if corrections and not done["found"]:
        raise DataError(
            f"{path}: none of its {counted(len(corrections), 'image')} is in {images.source}. Images are found by id, "
            "the hash of the file: corrections hold for the set that was audited, also where files were renamed or "
            "moved, but not where they were encoded anew. Name that set, or leave corrections out."
        )
    lost = len(set(corrections) - set(ids))
    notes = [f"{done['relabelled']:,} relabelled, {int(dropped.sum()):,} dropped, {done['kept']:,} kept"]
    notes += [f"{counted(lost, 'image')} not in this set"] if lost else []
    notes += [f"{done['changed since']:,} had another label when they were audited"] if done["changed since"] else []
    style = "yellow" if lost or done["changed since"] else ""
    say(f"corrections: {'; '.join(notes)} ({shorten(str(path), 60)})", style)
    column = images.rows.schema.get_field_index("label")
    rows = images.rows.set_column(column, images.rows.schema.field(column), pa.array(labels, pa.int32()))
    gone = tuple(RejectedImage(name, "dropped by a correction") for name in rows["path"].filter(dropped).to_pylist())
    return replace(images, rows=rows.filter(~dropped).combine_chunks(), rejected=(*images.rejected, *gone))
