"""What is in a tar, kept from one command to the next: a tar of 50,000 samples takes seconds to walk through."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gpt4image.core.files import atomic_write
from gpt4image.images.table import RejectedImage

SPANS = ("image_at", "image_size", "text_at", "text_size", "record_at", "record_size")
"""Where the image, the text and the record of a sample lie in the tar, in bytes; -1 if there is none."""

CONTENTS = pa.schema({**dict.fromkeys(("path", "label", "cells"), pa.string()), **dict.fromkeys(SPANS, pa.int64())})

NOTES = b"gpt4image.tar"
"""Metadata key of a kept listing: what is known of the tar beside its samples."""


@dataclass(frozen=True)
class TarContents:
    """What is in one tar.

    Attributes:
        state: changes when the tar does.
        rows: one row a sample with the columns of `CONTENTS`; the label is null if it has none, and `cells` is
            JSON of those values of its record that may say the split, null without any.
        texts: names of the texts of its samples.
        bad: images that cannot be read.
        others: what is no image of the set.
    """

    state: str
    rows: pa.Table
    texts: tuple[str, ...]
    bad: tuple[RejectedImage, ...]
    others: tuple[RejectedImage, ...]


def save_contents(contents: TarContents, path: Path) -> None:
    """Keep what is in a tar."""
    bad, others = ([astuple(image) for image in images] for images in (contents.bad, contents.others))
    notes = json.dumps([contents.state, contents.texts, bad, others])
    with atomic_write(path) as file:
        pq.write_table(contents.rows.replace_schema_metadata({NOTES: notes.encode()}), file)


def load_contents(path: Path, state: str) -> TarContents | None:
    """Return what was kept of a tar; None if nothing was, if the tar is in another state now, or if it is damaged."""
    try:
        rows = pq.read_table(path)
        known, texts, bad, others = json.loads((rows.schema.metadata or {})[NOTES])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    if known != state or not rows.schema.equals(CONTENTS):
        return None
    rejected = (tuple(RejectedImage(*image) for image in images) for images in (bad, others))
    return TarContents(state, rows.replace_schema_metadata(None), tuple(texts), *rejected)
