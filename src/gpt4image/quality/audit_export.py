"""An audit in the formats of other tools: cleanlab, FiftyOne and Label Studio."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from gpt4image.core.files import atomic_write, write_json
from gpt4image.images.table import ImageTable
from gpt4image.quality.audit import Judgement
from gpt4image.quality.audit_record import AuditRecord

AuditFormat = Literal["cleanlab", "fiftyone", "label-studio"]


def export_audit(form: AuditFormat, audit: AuditRecord, judgement: Judgement, images: ImageTable, folder: Path) -> None:
    """Write an audit for another tool.

    - `cleanlab`: `pred_probs.npy`, out-of-sample probabilities float64 [n, C]; `labels.npy`, int64 [n]; `images.csv`.
      Pass the arrays to `cleanlab.filter.find_label_issues(labels, pred_probs)`, for example.
    - `fiftyone`: `labels.json` and `data.json` of a FiftyOneImageClassificationDataset; the labels hold the
      suggestion and its confidence. Pass `data_path="data.json"` to FiftyOne.
    - `label-studio`: `tasks.json` with the suggestions as predictions, and `config.xml`.

    Args:
        form: the tool.
        audit: the images to review.
        judgement: the probabilities of all images.
        images: the images.
        folder: folder of the files; existing ones are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    {"cleanlab": _cleanlab, "fiftyone": _fiftyone, "label-studio": _label_studio}[form](
        audit, judgement, images, folder
    )


def _cleanlab(audit: AuditRecord, judgement: Judgement, images: ImageTable, folder: Path) -> None:
    known = judgement.known
    rows = np.flatnonzero(known.labels >= 0)
    for name, values in (
        ("pred_probs", judgement.probabilities[rows]),
        ("labels", known.labels[rows].astype(np.int64)),
    ):
        with atomic_write(folder / f"{name}.npy") as file:
            np.save(file, values)
    path_of = dict(zip(images.rows["id"].to_pylist(), images.rows["path"].to_pylist(), strict=True))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "path", "label"])
    for row in rows.tolist():
        image_id = known.ids[row].decode()
        writer.writerow([image_id, path_of[image_id], audit.classes[known.labels[row]]])
    with atomic_write(folder / "images.csv") as file:
        file.write(text.getvalue().encode())


def _fiftyone(audit: AuditRecord, judgement: Judgement, images: ImageTable, folder: Path) -> None:
    labels, data = {}, {}
    for number, item in enumerate(audit.items):
        name = f"{number:06d}-{item.image_id}"
        data[name] = _location(item.path, images)
        labels[name] = {
            "label": item.given,
            # FiftyOne renames images when it writes them, and an attribute may not have the name of a label's own field
            "attributes": {
                "suggested": item.suggested,
                "suggested_confidence": item.confidence,
                "kind": item.kind,
                "given": item.given or "",
                "image_id": item.image_id,
            },
        }
    write_json(folder / "data.json", data)
    write_json(folder / "labels.json", {"classes": audit.classes, "labels": labels})


def _label_studio(audit: AuditRecord, judgement: Judgement, images: ImageTable, folder: Path) -> None:
    tasks = []
    for item in audit.items:
        task: dict[str, object] = {
            "data": {
                "image": _location(item.path, images),
                "description": item.description or "",
                "given": item.given or "",
                "id": item.image_id,
            }
        }
        if item.suggested is not None:
            choice = {"from_name": "class", "to_name": "image", "type": "choices"}
            result = [{**choice, "value": {"choices": [item.suggested]}}]
            task["predictions"] = [{"model_version": "gpt4image", "score": item.confidence, "result": result}]
        tasks.append(task)
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in audit.classes)
    config = (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="description" value="$description"/>\n'
        f'  <Choices name="class" toName="image">\n{choices}\n  </Choices>\n</View>\n'
    )
    with atomic_write(folder / "tasks.json") as file:
        file.write(json.dumps(tasks, ensure_ascii=False, indent=1).encode())
    with atomic_write(folder / "config.xml") as file:
        file.write(config.encode())


def _location(path: str, images: ImageTable) -> str:
    """Return the absolute path of an image that is a separate file, else its name in the source."""
    file = Path(images.source) / path
    return str(file.absolute()) if file.is_file() else path
