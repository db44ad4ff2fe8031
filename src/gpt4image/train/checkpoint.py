"""Checkpoints: all that is needed to go on as if nothing had happened, written atomically, read without unpickling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: epochs that are finished.
        step: optimiser steps done in the current epoch.
        classification_sum: sum of the cross-entropy over those steps.
        alignment_sum: sum of the alignment loss over those steps.
        history: one record an epoch (`EpochRecord` as plain values).
        best_epoch: epoch of the highest validation accuracy, the first of equals.
        best_accuracy: that accuracy.
        best_weights: weights of that epoch's trained part, on the CPU.
        seconds: time spent.
    """

    epoch: int = 0
    step: int = 0
    classification_sum: float = 0.0
    alignment_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def save_checkpoint(path: Path, progress: Progress, states: dict[str, Any]) -> None:
    """Write progress and state dicts to one file, atomically."""
    with atomic_write(path) as file:
        torch.save({"progress": vars(progress), "states": states}, file)


def load_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]] | None:
    """Read a checkpoint; None where there is none. StoreError when it is damaged."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Progress(**content["progress"]), content["states"]
    except Exception as error:  # a damaged file can end in almost any exception
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}). Delete it to train this run from its start."
        ) from None
