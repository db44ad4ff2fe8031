"""Teachers that count their views, and images as they see them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt4image import load_images, load_teacher
from gpt4image.core.files import ResumableArray
from gpt4image.images.table import ImageTable
from support.forks import start_forked


class CountingTeacher:
    """A real teacher that counts the views it computes."""

    def __init__(self, inner) -> None:
        self.inner, self.seen = inner, []
        self.name, self.revision, self.width = inner.name, inner.revision, inner.width
        self.classes, self.preparation = inner.classes, inner.preparation

    def predict(self, images: torch.Tensor) -> np.ndarray:
        self.seen.append(len(images))
        return self.inner.predict(images)


def pick(images: ImageTable, places) -> ImageTable:
    """Return a table of some of the rows, in that order."""
    return replace(images, rows=images.rows.take(places))


def prepare(images: ImageTable, places, transform) -> torch.Tensor:
    """Prepare images with a transform [n, 3, H, W]."""
    return torch.stack([transform(images.image(int(place))) for place in places])


def same_bytes(first, second) -> bool:
    """Return whether two stores, of vectors or of labels, have the same files."""
    files = [{path.name: path.read_bytes() for path in store.layout.folder.iterdir()} for store in (first, second)]
    return files[0] == files[1] != {}


def to_unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def kill_while_writing(
    make: Callable[..., object], after: int, source: Path, teacher: dict[str, Any], folder: Path, **settings: object
) -> None:
    """Call `embed_images` or `label_images` in a process that kills itself.

    Args:
        make: the function.
        after: writes before the kill; below 0 when the complete store is moved into place.
        source: the images.
        teacher: arguments of `load_teacher`.
        folder: folder of the store.
        settings: further arguments of the function.
    """
    process = start_forked(_make_and_die, make, after, source, teacher, folder, settings)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _make_and_die(make, after, source, teacher, folder, settings) -> None:
    writes, write = [], ResumableArray.write

    def die(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_or_die(self, chunk, values) -> None:
        if len(writes) == after:
            die()
        writes.append(chunk)
        write(self, chunk, values)

    images = load_images(source, validation_share=0.2, test_share=0.25)
    ResumableArray.write = write_or_die
    if after < 0:
        Path.rename = die
    make(images, load_teacher(**teacher), folder, **settings)
