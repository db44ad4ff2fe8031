"""Compute a teacher's outputs for a plan of views into an array on disk, resumably.

The array is filled chunk by chunk (`ResumableArray`). Rows of views that cannot be made because their image is
unreadable keep a blank value; the caller leaves them out of its index and tries them again next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import ResumableArray, digest
from gpt4image.core.format import counted
from gpt4image.embed.runner import BATCHES_PER_CHUNK
from gpt4image.images.load import OnBadImage
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.views import PreparedViews

BATCH_SIZE = 64


@dataclass(frozen=True)
class Loading:
    """How views are loaded.

    Attributes:
        batch_size: views per batch.
        workers: processes that prepare views; they affect only the speed.
        on_bad_image: what to do about an unreadable image.
    """

    batch_size: int
    workers: int
    on_bad_image: OnBadImage

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError(
                f"batch_size (--batch-size) must be 1 or more and workers (--workers) 0 or more, not {self.batch_size} "
                f"and {self.workers}."
            )


@dataclass
class Outputs:
    """A teacher's outputs for the views of a plan, as rows of a `.npy` file.

    Attributes:
        teacher: the teacher.
        inputs: the views.
        path: the file.
        dtype: its element type.
        blank: value that fills rows without an output; no output consists only of it.
        finish: turns outputs [B, D] into rows of the file.
        earlier: rows of an earlier run, which the plan's `known` refers to.
        loading: how views are loaded.
        faults: the images that this process could not read, and why.
    """

    teacher: Teacher
    inputs: PreparedViews
    path: Path
    dtype: str
    blank: float
    finish: Callable[[np.ndarray], np.ndarray]
    earlier: np.ndarray | None
    loading: Loading
    faults: list[str] = field(default_factory=list)

    def fill(self, title: str) -> np.ndarray:
        """Compute what is missing, with a progress line, and return the rows that hold an output, int64 [K].

        Raises:
            ImageError: an image is unreadable, with `on_bad_image` "fail"; or all are.
        """
        console.follow(title, len(self.inputs.plan), self._steps())
        stored = np.load(self.path, mmap_mode="r")
        step = max(1, 2**24 // stored.shape[1])  # rows at a time, to limit memory
        parts = [stored[start : start + step] for start in range(0, len(stored), step)]
        blank = [np.isnan(part) if np.isnan(self.blank) else part == self.blank for part in parts]
        rows = np.flatnonzero(~np.concatenate([part.all(axis=1) for part in blank]))
        example = f", such as {self.faults[0]}" if self.faults else ""
        if not len(rows):
            raise ImageError(f"None of the images can be read{example}. List them again: gpt4image images.")
        if len(rows) < len(stored):
            missing = counted(len(np.unique(np.delete(self.inputs.plan.ids, rows))), "image")
            console.say(f"left out: {missing} that cannot be read{example}", style="yellow")
        return rows

    def _steps(self) -> Iterator[int]:
        """Fill the file, yielding the number of finished rows."""
        plan, shape, batch_size = self.inputs.plan, (len(self.inputs.plan), self.teacher.width), self.loading.batch_size
        identity = digest(
            self.teacher.name, self.teacher.revision, str(batch_size), plan.keys.tobytes(), plan.known.tobytes()
        )
        array = ResumableArray(self.path, shape, self.dtype, batch_size * BATCHES_PER_CHUNK, identity)
        chunks = [(number, array.rows(number)) for number in array.remaining]
        batches = [self._batches(rows) for _, rows in chunks]
        # one loader for all chunks: its workers prepare the next chunk while this one is written
        outputs = self._predict([batch for of_chunk in batches for batch in of_chunk])
        done = shape[0] - sum(rows.stop - rows.start for _, rows in chunks)
        for (number, rows), of_chunk in zip(chunks, batches, strict=True):
            yield done
            values = np.full((rows.stop - rows.start, shape[1]), self.blank, dtype=np.float32)
            known = plan.known[rows]
            if self.earlier is not None:
                values[known >= 0] = self.earlier[known[known >= 0]]
            for _ in of_chunk:
                made, found = next(outputs)
                values[made - rows.start] = found
            array.write(number, values)
            done += len(values)
        if chunks:
            yield done
        array.finish()

    def _batches(self, rows: slice) -> list[np.ndarray]:
        """Split the rows of a chunk that must be computed into batches, int64 [B] each."""
        new, size = rows.start + np.flatnonzero(self.inputs.plan.known[rows] < 0), self.loading.batch_size
        return [new[start : start + size] for start in range(0, len(new), size)]

    def _predict(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each batch, the rows of its readable images, int64 [b], and their outputs [b, D]."""
        loader = DataLoader(
            self.inputs,
            sampler=batches,
            batch_size=None,  # the dataset makes whole batches
            num_workers=self.loading.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # so that the global one is not used
        )
        for rows, images, faults in loader:
            self.faults += faults
            if faults and self.loading.on_bad_image == "fail":
                raise ImageError(
                    f"{faults[0]}. List the images again: gpt4image images; or set on_bad_image to skip "
                    "(--on-bad-image skip)."
                )
            outputs = self.finish(self.teacher.predict(images)) if len(rows) else np.zeros((0, self.teacher.width))
            yield rows.numpy(), outputs


def check_finite(outputs: np.ndarray, teacher: Teacher) -> np.ndarray:
    """Return the outputs [B, D]. ConfigError if some are not finite."""
    if not np.isfinite(outputs).all():
        raise ConfigError(
            f"Teacher {teacher.name} returns outputs that are not finite: choose one whose weights were trained."
        )
    return outputs
