"""What is sent to experiment trackers: settings, and the metrics of steps and epochs."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpt4image.train.loop import Trainer
from gpt4image.train.schedules import learning_rate
from gpt4image.train.spec import RunSpec
from gpt4image.train.tracking import Tracking

GIB = 2**30
STEPS_BETWEEN_RECORDS = 10


@contextmanager
def tracked(tracking: Tracking, spec: RunSpec, trainer: Trainer) -> Iterator[None]:
    """Send every tenth step and every epoch of a run to its trackers, and always end their records.

    Both are recorded at the number of optimiser steps taken so far.
    """
    progress = trainer.progress
    done = progress.epoch * trainer.steps_per_epoch + progress.step if spec.layout.checkpoint.exists() else None
    trackers = tracking.open(f"{spec.arm.name}-{spec.seed}", public_settings(spec), done)
    steps = StepRecords(trainer, trackers.log)

    def track(trainer: Trainer) -> None:
        trackers.log(figures(trainer), len(trainer.progress.history) * trainer.steps_per_epoch)

    trainer.track, trainer.watch.on_read = track, steps.add
    try:
        yield
    finally:
        trackers.finish()


class StepRecords:
    """Averages the losses of some steps and records them, with the learning rate and the speed.

    Args:
        trainer: the training.
        log: records figures at a step.
    """

    def __init__(self, trainer: Trainer, log: Callable[[Mapping[str, float | None], int], None]) -> None:
        self._trainer, self._log = trainer, log
        self._losses: list[list[float]] = []
        self._since = time.monotonic()

    def add(self, epoch: int, step: int, losses: list[float]) -> None:
        """Add a step's mean losses [3]; record the mean of ten steps, and of fewer at the end of an epoch."""
        trainer, self._losses = self._trainer, [*self._losses, losses]
        last = step + 1 == trainer.steps_per_epoch
        if len(self._losses) < STEPS_BETWEEN_RECORDS and not last:
            return
        now, count = time.monotonic(), len(self._losses)
        classification, alignment, partner = (sum(column) / count for column in zip(*self._losses, strict=True))
        images = count * trainer.batches.batch_size
        rate = learning_rate(trainer.recipe, epoch + (step + 1) / trainer.steps_per_epoch)
        self._log(
            {
                "step/classification_loss": classification,
                "step/alignment_loss": alignment if trainer.plain_model.heads else None,
                "step/self_supervised_loss": partner if trainer.objective.self_supervised_weight else None,
                "step/learning_rate": rate,
                "step/images_per_second": images / max(now - self._since, 1e-9),
            },
            epoch * trainer.steps_per_epoch + step + 1,
        )
        self._losses, self._since = [], now


def public_settings(spec: RunSpec) -> dict[str, Any]:
    """Return the settings of a run, without folders of this machine."""
    images = spec.images
    return {
        "arm": spec.arm.name,
        "seed": spec.seed,
        "images": Path(images.source).name,
        "classes": len(images.classes),
        **spec.recipe.shareable().to_dict(),
    }


def figures(trainer: Trainer) -> dict[str, float | None]:
    """Return the figures of the last epoch."""
    epoch = trainer.progress.history[-1]
    batches, parts = trainer.batches, trainer.recipe.accumulate
    images = (len(batches) - batches.start) // parts * batches.batch_size  # of this epoch, since a resume
    score = trainer.objective.task.score.replace(" ", "_")
    return {
        "epoch": len(trainer.progress.history),
        "loss/classification": epoch["classification_loss"],
        "loss/alignment": epoch["alignment_loss"],
        "loss/self_supervised": epoch.get("self_supervised_loss"),
        "learning_rate": epoch["learning_rate"],
        "alignment_weight": trainer.objective.weight if trainer.plain_model.heads else None,
        f"validation/{score}": epoch["validation_accuracy"],
        f"validation/best_{score}": trainer.progress.best_accuracy,
        "images_per_second": images / epoch["seconds"] if images else None,
        "memory_gib": peak_memory(trainer.accelerator.device) / GIB,
    }


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has used so far, in bytes: of the GPU, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
