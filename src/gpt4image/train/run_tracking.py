"""What experiment trackers get of a training run: settings, and the figures of every epoch."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gpt4image.train.loop import Trainer
from gpt4image.train.spec import RunSpec
from gpt4image.train.tracking import Tracking

GIB = 2**30


@contextmanager
def tracked(tracking: Tracking, spec: RunSpec, trainer: Trainer) -> Iterator[None]:
    """Send every epoch of a run to its trackers, and end their records whatever happens."""
    done = len(trainer.progress.history) if spec.layout.checkpoint.exists() else None
    trackers = tracking.open(f"{spec.arm.name}-{spec.seed}", public_settings(spec), done)

    def track(trainer: Trainer) -> None:
        trackers.log(figures(trainer), len(trainer.progress.history))

    trainer.track = track
    try:
        yield
    finally:
        trackers.finish()


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
    return {
        "loss/classification": epoch["classification_loss"],
        "loss/alignment": epoch["alignment_loss"],
        "learning_rate": epoch["learning_rate"],
        "alignment_weight": trainer.objective.weight if trainer.plain_model.heads else None,
        "validation/accuracy": epoch["validation_accuracy"],
        "validation/best_accuracy": trainer.progress.best_accuracy,
        "images_per_second": images / epoch["seconds"] if images else None,
        "memory_gib": peak_memory(trainer.accelerator.device) / GIB,
    }


def peak_memory(device: torch.device) -> int:
    """Return the most memory that this process has used so far, in bytes: of the GPU, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
