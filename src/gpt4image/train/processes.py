"""Devices and processes: one CPU, one GPU, or several under `accelerate launch` or `torchrun`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import exclusive
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


PATIENCE = timedelta(days=2)


"""How long processes wait for the first one, which scans and embeds alone."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """The accelerator of a run. ConfigError when it lacks the precision or the batch cannot be shared out evenly."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # its precision is fixed otherwise for the life of the process
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    try:
        accelerator = Accelerator(mixed_precision=recipe.precision, kwargs_handlers=[patience])
    except ValueError as error:
        raise ConfigError(f"precision {recipe.precision} cannot be had here: {error}") from None
    parts = accelerator.num_processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise ConfigError(
            f"batch_size {recipe.batch_size} cannot be shared by {accelerator.num_processes} processes x "
            f"{recipe.accumulate} parts."
        )
    if recipe.mixes and recipe.batch_size // parts % 2:
        raise ConfigError(
            f"mixup and cutmix pair the images of a batch: {recipe.batch_size} by {accelerator.num_processes} processes"
            f" x {recipe.accumulate} parts leaves an odd number."
        )
    return accelerator


@contextmanager
def first_process_holds(lock: Path, what: str, accelerator: Accelerator) -> Iterator[None]:
    """Hold a lock in the first process of several; the others belong to it."""
    if not accelerator.is_main_process:
        yield
        return
    with exclusive(lock, what):
        yield
