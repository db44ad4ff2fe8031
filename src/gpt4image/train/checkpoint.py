"""Checkpoints: everything a run needs to resume as if it had never stopped, written atomically."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write
from gpt4image.core.signals import StopRequests
from gpt4image.train.loop import Progress, Trainer

SUMS = ("classification_sum", "alignment_sum", "self_supervised_sum")  # sums of the losses of the current epoch


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write progress and the state of everything that changes in training. All recorded losses must have been read."""
    progress, watch, scaler = trainer.progress, trainer.watch, trainer.accelerator.scaler
    for name in SUMS:
        setattr(progress, name, getattr(watch, name))
    states = {
        "model": trainer.plain_model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "ema": trainer.ema.module.state_dict() if trainer.ema else None,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    with atomic_write(path) as file:
        torch.save({"progress": vars(progress), "states": states}, file)


def restore_checkpoint(trainer: Trainer, path: Path) -> None:
    """Put a trainer into the state of a checkpoint, if there is one.

    Raises:
        StoreError: the file is damaged.
    """
    if not path.exists():
        return
    progress, states = _read(path)
    trainer.progress = progress
    for name in SUMS:
        setattr(trainer.watch, name, getattr(progress, name))
    trainer.plain_model.load_state_dict(states["model"])
    trainer.optimizer.load_state_dict(states["optimizer"])
    lay_out_as_weights(trainer.optimizer)
    if trainer.ema:
        trainer.ema.module.load_state_dict(states["ema"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(states["scaler"])


def checkpoint_progress(path: Path) -> tuple[int, int]:
    """Return the finished epochs and the steps of the next one that a checkpoint holds; zeros if it is unreadable."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(content["progress"]["epoch"]), int(content["progress"]["step"])
    except Exception:  # a damaged file can raise almost any exception; training says what is wrong
        return 0, 0


def lay_out_as_weights(optimizer: Any) -> None:  # noqa: ANN401 - accelerate's wrapper
    """Bring the state into the weights' order in memory, which fused optimisers assume without a check.

    The checkpoint may come from a device on which the order is another (`memory_format`).
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() > 1 and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _read(path: Path) -> tuple[Progress, dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Progress(**content["progress"]), content["states"]
    except Exception as error:  # a damaged file can raise almost any exception
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}). Delete it to train this run from the start."
        ) from None


class CheckpointTimer:
    """Writes a checkpoint if the last one is old enough, and one at a request to stop.

    Args:
        path: the checkpoint file.
        seconds: time between two checkpoints.
        stop: true once training should stop.
    """

    def __init__(self, path: Path, seconds: float, stop: StopRequests) -> None:
        self._path, self._seconds, self._stop, self._last = path, seconds, stop, time.monotonic()

    def __call__(self, trainer: Trainer) -> None:
        """Save if it is time. Losses are read first, so that a checkpoint never contains non-finite weights.

        Raises:
            KeyboardInterrupt: training should stop.
        """
        if self._stop:
            trainer.watch.flush()
            save_checkpoint(trainer, self._path)
            raise KeyboardInterrupt
        if time.monotonic() - self._last >= self._seconds and trainer.watch.flushed:
            save_checkpoint(trainer, self._path)
            self._last = time.monotonic()
