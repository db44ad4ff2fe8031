"""Settings of the stages before training, as the command line shows them. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class DataOptions:
    """Which images, and what to do about bad ones."""

    data: Annotated[str, tyro.conf.Positional]
    """Folder of class folders, folder with metadata, CSV/JSONL, Parquet/Arrow, WebDataset tars, or a hub name."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """List and leave out images that cannot be read, or stop."""
    leaks: Literal["keep", "drop", "fail"] = "keep"
    """The same image in two splits: keep it and say so, drop it from the training side, or stop."""
    image_column: str | None = None
    """Column that holds the images, where it cannot be told."""
    label_column: str | None = None
    """Column that holds the labels, where it cannot be told."""
    max_pixels: int = 89_478_485
    """Largest width x height that is decoded."""
    validation_share: float = 0.1
    """Share of the images that becomes the validation split where there is none."""
    test_share: float = 0.2
    """Share of the images that becomes the test split where there is none."""
    split_seed: int = 0
    """Seed of that choice."""


@dataclass(frozen=True)
class TextOptions:
    """Which descriptions, and how they become vectors."""

    text: str = "description"
    """Text column of the image set, or a file: CSV/JSONL/Parquet keyed by path or id, or the reference's .pth list."""
    text_column: str | None = None
    """The file's text column, where it is not called text, description or caption."""
    orphan_texts: Literal["fail", "skip"] = "fail"
    """Texts that fit no image: stop, or leave them out."""
    encoder: str = "minilm"
    """Text encoder: minilm, sentence-transformers:MODEL, or open-clip:MODEL/PRETRAINED."""
    long_text: Literal["truncate", "pool"] = "truncate"
    """Texts longer than the encoder reads: read their beginning, or encode them in chunks and pool."""
    embed_batch: int = 64
    """Texts encoded at a time."""
