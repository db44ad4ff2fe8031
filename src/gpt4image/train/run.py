"""One training run: started, resumed where it stood, finished once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as safetensors_bytes

from gpt4image import console
from gpt4image.embed.store import EmbeddingStore
from gpt4image.errors import ConfigError, StoreError
from gpt4image.files import atomic_write, digest, read_json, write_json
from gpt4image.images.table import ImageTable
from gpt4image.train.arms import Arm, find_arm
from gpt4image.train.augment import preprocessing, seed_everything
from gpt4image.train.backbone import build_backbone, whole_state
from gpt4image.train.checkpoint import load_checkpoint, save_checkpoint
from gpt4image.train.loop import Trainer, fit
from gpt4image.train.processes import first_process_holds, make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.setup import build_trainer, capture_state, restore_state

if TYPE_CHECKING:
    from accelerate import Accelerator

TEXT_SETTINGS = ("loss", "weight", "temperature", "projector", "projector_hidden")
"""Recipe settings that change nothing in an arm without text."""


@dataclass(frozen=True)
class RunLayout:
    """Where the parts of a run lie.

    Attributes:
        folder: the run's folder.
    """

    folder: Path

    @property
    def settings(self) -> Path:
        """What the run is a run of."""
        return self.folder / "settings.json"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished run."""
        return self.folder / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        """Backbone and classifier of the best epoch, under timm's names."""
        return self.folder / "best.safetensors"

    @property
    def result(self) -> Path:
        """Best epoch and history; written last, so a run with a result is finished."""
        return self.folder / "result.json"

    @property
    def lock(self) -> Path:
        """Held while a process trains the run."""
        return self.folder / "run.lock"


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        layout: where it lies.
        arm: the way of training.
        seed: its seed.
        classes: class names.
        recipe: its recipe.
        preprocessing: how its backbone wants images prepared.
        best_epoch: epoch whose weights were kept.
        best_accuracy: their validation accuracy, a share of 1.
        seconds: time spent training and validating.
        history: one record an epoch.
    """

    layout: RunLayout
    arm: Arm
    seed: int
    classes: tuple[str, ...]
    recipe: Recipe
    preprocessing: dict[str, Any]
    best_epoch: int
    best_accuracy: float
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)


def train(
    images: ImageTable,
    store: EmbeddingStore | None,
    recipe: Recipe,
    folder: Path,
    *,
    arm: str = "described",
    seed: int = 0,
    features: Path | None = None,
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
) -> TrainedRun:
    """Train one model, or go on with it, or return it if it is finished.

    A run that was killed and started again ends in the same weights, bit for bit on one machine's CPU.

    Args:
        images: training and validation images; test images are not touched.
        store: text vectors; needed by arms that use text.
        recipe: how to train.
        folder: the run's folder.
        arm: `baseline` or `described`.
        seed: seed of the classifier's start, the order, and all augmentation.
        features: where stored outputs of frozen modules lie; in the run's folder when not given.
        workers: processes that prepare batches. Changes speed alone.
        checkpoint_seconds: time between two checkpoints.

    Raises:
        ConfigError: the folder holds a run of other settings, or the settings cannot work together.
        TrainingError: the loss is not a number, or there are no images to train on.
        BusyError: another process trains this run.
    """
    chosen = find_arm(arm)
    if chosen.uses_text and store is None:
        raise ConfigError(f"Arm {arm!r} trains with descriptions: pass their embeddings, or take --arm baseline.")
    text = store if chosen.uses_text else None
    layout = RunLayout(folder)
    accelerator = make_accelerator(recipe)
    with first_process_holds(layout.lock, f"the run in {folder}", accelerator):
        check_settings(layout, run_settings(images, text, recipe, chosen, seed), accelerator)
        if not layout.result.exists():
            train_to_end(
                images, text, recipe, layout, chosen, seed, accelerator, features or folder, workers, checkpoint_seconds
            )
    accelerator.wait_for_everyone()
    return open_run(folder)


def train_to_end(
    images: ImageTable,
    store: EmbeddingStore | None,
    recipe: Recipe,
    layout: RunLayout,
    arm: Arm,
    seed: int,
    accelerator: Accelerator,
    features: Path,
    workers: int,
    checkpoint_seconds: float,
) -> None:
    """Train from the last checkpoint, or from the start, and write the result."""
    seed_everything(seed)
    backbone = build_backbone(recipe, len(images.classes))
    with console.progress(f"Train {arm.name}, seed {seed}") as meter:
        trainer = build_trainer(backbone, images, store, recipe, seed, accelerator, features, workers, meter)
        meter.total(recipe.epochs * trainer.steps_per_epoch)
        checkpoint = load_checkpoint(layout.checkpoint)
        if checkpoint:
            restore_state(trainer, *checkpoint)
        if accelerator.is_main_process:
            trainer.save = CheckpointTimer(layout.checkpoint, checkpoint_seconds)
        fit(trainer)
    if accelerator.is_main_process:
        write_result(trainer, backbone, layout)


class CheckpointTimer:
    """Writes a checkpoint when some time has passed since the last one.

    Args:
        path: the checkpoint.
        seconds: time between two.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds, self._last = path, seconds, time.monotonic()

    def __call__(self, trainer: Trainer) -> None:
        """Save if it is time and the losses up to here are known to be sound."""
        if time.monotonic() - self._last < self._seconds or not trainer.watch.looked:
            return
        trainer.progress.classification_sum = trainer.watch.classification_sum
        trainer.progress.alignment_sum = trainer.watch.alignment_sum
        save_checkpoint(self._path, trainer.progress, capture_state(trainer))
        self._last = time.monotonic()


def write_result(trainer: Trainer, backbone: Any, layout: RunLayout) -> None:  # noqa: ANN401 - nn.Module, not imported here
    """Write the best weights and, last, the result; the checkpoint has served."""
    progress = trainer.progress
    trained = trainer.plain_model.backbone
    trained.load_state_dict(progress.best_weights)
    with atomic_write(layout.weights) as file:
        file.write(safetensors_bytes(whole_state(backbone, trained)))
    result = {
        "preprocessing": preprocessing(backbone, trainer.recipe.image_size),
        "best_epoch": progress.best_epoch,
        "best_accuracy": progress.best_accuracy,
        "seconds": progress.seconds,
        "history": progress.history,
    }
    write_json(layout.result, result)
    layout.checkpoint.unlink(missing_ok=True)


def run_settings(
    images: ImageTable, store: EmbeddingStore | None, recipe: Recipe, arm: Arm, seed: int
) -> dict[str, Any]:
    """All that decides a run's result, as plain values."""
    columns = (str(images.rows[name].to_pylist()) for name in ("id", "label", "split"))
    manifest = None if store is None else store.manifest
    return {
        "arm": arm.name,
        "seed": seed,
        "images": digest(*columns),
        "classes": list(images.classes),
        "text": manifest and {key: getattr(manifest, key) for key in ("encoder", "revision", "long_text", "text_hash")},
        "recipe": {k: v for k, v in recipe.to_dict().items() if arm.uses_text or k not in TEXT_SETTINGS},
    }


def check_settings(layout: RunLayout, settings: dict[str, Any], accelerator: Accelerator) -> None:
    """Write down what the run is a run of. ConfigError when the folder holds another one, naming what differs."""
    if not layout.settings.exists():
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(layout.settings, settings)
        return
    before, now = flatten(read_json(layout.settings)), flatten(settings)
    changed = [f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ConfigError(
            f"{layout.folder} holds a run of other settings: {'; '.join(changed[:5])}. Take another --work folder, or "
            "delete this run."
        )


def flatten(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names.

    >>> flatten({"seed": 0, "recipe": {"lr": 0.1}})
    {'seed': 0, 'recipe.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def open_run(folder: Path) -> TrainedRun:
    """Open a finished run. StoreError when it is not finished."""
    layout = RunLayout(folder)
    if not layout.result.exists():
        raise StoreError(f"{folder} holds no finished run. Train it: gpt4image train, or gpt4image compare.")
    settings, result = read_json(layout.settings), read_json(layout.result)
    return TrainedRun(
        layout=layout,
        arm=find_arm(settings["arm"]),
        seed=settings["seed"],
        classes=tuple(settings["classes"]),
        recipe=Recipe.from_dict(settings["recipe"], source=str(layout.settings)),
        **result,
    )
