"""A teacher's answers to the views of a plan, written chunk by chunk; a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, ImageError
from gpt4image.core.files import FillingArray, digest
from gpt4image.core.format import counted
from gpt4image.embed.runner import BATCHES_PER_CHUNK
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.views import PreparedViews

OnBadImage = Literal["skip", "fail"]


"""An image that cannot be read any more: leave it out and say so, or stop."""


@dataclass
class Answers:
    """The answers to a plan's views, row by row, on their way into a file.

    Attributes:
        teacher: who answers.
        inputs: the views.
        path: the `.npy` file.
        dtype: its element type.
        blank: what fills the rows of views that cannot be made; no answer is filled with it.
        finish: what is stored of answers [B, D].
        earlier: rows that an earlier run has stored, to which the plan's `known` points.
        batch_size: views at a time.
        workers: processes that prepare views. Changes speed alone.
        on_bad_image: what is done about an image that cannot be read.
        faults: the images that could not be read in this process, and why.
    """

    teacher: Teacher
    inputs: PreparedViews
    path: Path
    dtype: str
    blank: float
    finish: Callable[[np.ndarray], np.ndarray]
    earlier: np.ndarray | None
    batch_size: int
    workers: int
    on_bad_image: OnBadImage
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError(
                f"batch_size must be 1 or more and workers 0 or more, not {self.batch_size} and {self.workers}."
            )

    def fill(self, title: str) -> None:
        """Answer what has not been answered yet, and show progress.

        Raises:
            ImageError: an image cannot be read, where that is to stop the work.
        """
        console.follow(title, len(self.inputs.plan), self._steps())

    def present(self) -> np.ndarray:
        """Rows of the finished file that hold an answer, int64 [K]. ImageError when there is none."""
        stored = np.load(self.path, mmap_mode="r")
        step = max(1, 2**24 // stored.shape[1])
        parts = [stored[start : start + step] for start in range(0, len(stored), step)]
        rows = np.flatnonzero(np.concatenate([~self._is_blank(part).all(axis=1) for part in parts]))
        first = f", such as {self.faults[0]}" if self.faults else ""
        if not len(rows):
            raise ImageError(f"None of the images can be read{first}. List them again: gpt4image images.")
        if len(rows) < len(stored):
            missing = counted(len(np.unique(np.delete(self.inputs.plan.ids, rows))), "image")
            console.say(f"left out: {missing} that cannot be read{first}", style="yellow")
        return rows

    def _is_blank(self, part: np.ndarray) -> np.ndarray:
        return np.asarray(np.isnan(part) if np.isnan(self.blank) else part == self.blank)

    def _steps(self) -> Iterator[int]:
        plan, shape = self.inputs.plan, (len(self.inputs.plan), self.teacher.width)
        identity = digest(
            self.teacher.name, self.teacher.revision, str(self.batch_size), plan.keys.tobytes(), plan.known.tobytes()
        )
        array = FillingArray(self.path, shape, self.dtype, self.batch_size * BATCHES_PER_CHUNK, identity)
        chunks = array.remaining
        parts = {number: self._batches(array.rows(number)) for number in chunks}
        answered = self._answer([batch for number in chunks for batch in parts[number]])
        done = shape[0] - sum(array.rows(number).stop - array.rows(number).start for number in chunks)
        for number in chunks:
            yield done
            rows = array.rows(number)
            values = self._recall(rows)
            for _ in parts[number]:
                found, answers = next(answered)
                values[found - rows.start] = answers
            array.write(number, values)
            done += len(values)
        if chunks:
            yield done
        array.finish()

    def _batches(self, rows: slice) -> list[np.ndarray]:
        new = rows.start + np.flatnonzero(self.inputs.plan.known[rows] < 0)
        return [new[start : start + self.batch_size] for start in range(0, len(new), self.batch_size)]

    def _recall(self, rows: slice) -> np.ndarray:
        values = np.full((rows.stop - rows.start, self.teacher.width), self.blank, dtype=np.float32)
        known = self.inputs.plan.known[rows]
        if self.earlier is not None:
            values[known >= 0] = self.earlier[known[known >= 0]]
        return values

    def _answer(self, batches: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        loader = DataLoader(
            self.inputs,
            sampler=batches,
            batch_size=None,  # the dataset makes whole batches
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # leaves the global one alone
        )
        for rows, images, faults in loader:
            self.faults += faults
            if faults and self.on_bad_image == "fail":
                raise ImageError(f"{faults[0]}. List the images again: gpt4image images; or --on-bad-image skip.")
            answers = self.finish(self.teacher.answer(images)) if len(rows) else np.zeros((0, self.teacher.width))
            yield rows.numpy(), answers


def check_finite(answers: np.ndarray, teacher: Teacher) -> np.ndarray:
    """The answers [B, D] themselves. ConfigError when some are not finite."""
    if not np.isfinite(answers).all():
        raise ConfigError(
            f"Teacher {teacher.name} gives answers that are not finite numbers: choose one whose weights were trained."
        )
    return answers
