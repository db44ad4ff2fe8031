"""One training run: started, resumed where it stood, finished once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as safetensors_bytes
from torch import nn

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import atomic_write, read_json, write_json
from gpt4image.core.signals import StopRequests, catch_stop_signals
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import preprocessing, seed_everything
from gpt4image.train.backbone import build_backbone, create_model, fitting_options, load_weights, whole_state
from gpt4image.train.build import build_trainer, capture_state, restore_state
from gpt4image.train.checkpoint import load_checkpoint, save_checkpoint
from gpt4image.train.guidance import Guidance, is_text, vector_sources
from gpt4image.train.loop import Trainer, fit
from gpt4image.train.processes import first_process_holds, make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import Arm, Job, RunLayout, find_arm

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gpt4image.soft_labels import SoftLabels


STOPPING = "Stopping after this step. Press Ctrl-C again to stop at once."


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


def train_model(
    images: ImageTable,
    store: EmbeddingStore | Sequence[EmbeddingStore] | None,
    recipe: Recipe,
    folder: Path,
    *,
    soft_labels: Sequence[SoftLabels] = (),
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
        store: text vectors, of one encoder or several, and those of vision teachers; needed by arms that use text.
        recipe: how to train.
        folder: the run's folder.
        soft_labels: labels of a classifier on the descriptions, or of teachers, for recipes that mix some in.
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
    if seed < 0:
        raise ConfigError(f"seed must be a number from 0 up, not {seed}.")
    stores = () if store is None else (store,) if isinstance(store, EmbeddingStore) else tuple(store)
    if chosen.uses_text and not stores and (recipe.weight or not recipe.soft_labels):
        raise ConfigError(f"Arm {arm!r} trains with descriptions: pass their embeddings, or take --arm baseline.")
    job = Job(
        images=images,
        guidance=choose_guidance(stores, soft_labels, recipe, images, seed) if chosen.uses_text else Guidance(),
        recipe=recipe,
        arm=chosen,
        seed=seed,
        layout=RunLayout(folder),
        features=features or folder,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
    )
    accelerator = make_accelerator(recipe)
    with first_process_holds(job.layout.lock, f"the run in {folder}", accelerator):
        with accelerator.main_process_first():
            job.claim_folder()
        if not job.layout.result.exists():
            train_to_end(job, accelerator)
    accelerator.wait_for_everyone()
    return open_run(folder)


def choose_guidance(
    stores: Sequence[EmbeddingStore],
    soft_labels: Sequence[SoftLabels],
    recipe: Recipe,
    images: ImageTable,
    seed: int,
) -> Guidance:
    """What a recipe uses of vectors and soft labels.

    Raises:
        ConfigError: the recipe mixes in soft labels and there are none.
        StoreError: soft labels are of other classes.
    """
    if recipe.soft_labels and not soft_labels:
        raise ConfigError(
            f"soft_labels = {recipe.soft_labels} mixes in soft labels: pass them (gpt4image label makes some of the "
            "descriptions), or set it to 0."
        )
    teachers = [store.manifest.encoder for store in stores if not is_text(store)]
    if teachers and not recipe.weight:
        raise ConfigError(f"weight = 0 aligns with nothing, so not with {teachers[0]} either: give a weight.")
    used = tuple(soft_labels) if recipe.soft_labels else ()
    for labels in used:
        labels.check(images.classes)
    return Guidance(
        sources=vector_sources(stores, recipe.several_encoders == "concatenated") if recipe.weight else (),
        soft_labels=used,
        texts=recipe.texts,
        soft_temperature=recipe.soft_temperature,
        seed=seed,
    )


def train_to_end(job: Job, accelerator: Accelerator) -> None:
    """Train from the last checkpoint, or from the start, and write the result."""
    seed_everything(job.seed)
    backbone = build_backbone(job.recipe, len(job.images.classes))
    trainer = build_trainer(job, backbone, accelerator)
    checkpoint = load_checkpoint(job.layout.checkpoint)
    if checkpoint:
        restore_state(trainer, *checkpoint)
    alone = accelerator.num_processes == 1  # several are stopped one by one, and would wait for one another
    steps = job.recipe.epochs * trainer.steps_per_epoch
    stopping = catch_stop_signals(partial(console.say, STOPPING), first_only=True)
    with (
        stopping if alone else nullcontext(StopRequests()) as stop,
        console.progress(f"Train {job.arm.name}, seed {job.seed}", steps) as meter,
    ):
        if accelerator.is_main_process:
            trainer.save = CheckpointTimer(job.layout.checkpoint, job.checkpoint_seconds, stop)
        try:
            fit(trainer, meter)
        except RuntimeError:  # loading processes end at the same Ctrl-C
            if stop:
                raise KeyboardInterrupt from None
            raise
    if accelerator.is_main_process:
        write_result(trainer, backbone, job.layout)


class CheckpointTimer:
    """Writes a checkpoint when some time has passed since the last one, and when the training is to stop.

    Args:
        path: the checkpoint.
        seconds: time between two.
        stop: true when the training is to stop.
    """

    def __init__(self, path: Path, seconds: float, stop: StopRequests) -> None:
        self._path, self._seconds, self._stop, self._last = path, seconds, stop, time.monotonic()

    def __call__(self, trainer: Trainer) -> None:
        """Save if it is time and the losses up to here are known to be sound. KeyboardInterrupt when it is to stop."""
        if self._stop:
            trainer.watch.look()
            self._save(trainer)
            raise KeyboardInterrupt
        if time.monotonic() - self._last >= self._seconds and trainer.watch.looked:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.progress.classification_sum = trainer.watch.classification_sum
        trainer.progress.alignment_sum = trainer.watch.alignment_sum
        save_checkpoint(self._path, trainer.progress, capture_state(trainer))
        self._last = time.monotonic()


def write_result(trainer: Trainer, backbone: nn.Module, layout: RunLayout) -> None:
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


def open_run(folder: Path) -> TrainedRun:
    """Open a finished run. StoreError when it is not finished."""
    layout = RunLayout(folder)
    if not layout.result.exists():
        raise StoreError(f"{folder} holds no finished run. Train it: gpt4image train, or gpt4image compare.")
    settings, result = read_json(layout.settings), read_json(layout.result)
    try:
        return TrainedRun(
            layout=layout,
            arm=find_arm(settings["arm"]),
            seed=settings["seed"],
            classes=tuple(settings["classes"]),
            recipe=Recipe.from_dict(settings["recipe"], source=str(layout.settings)),
            **result,
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{folder} is damaged or of another version ({error}). Delete it to train it again.") from None


def load_backbone(run: TrainedRun) -> nn.Module:
    """The trained backbone and classifier of a run, a plain timm model on the CPU in evaluation mode."""
    model = create_model(
        run.recipe.backbone, pretrained=False, num_classes=len(run.classes), **fitting_options(run.recipe)
    )
    load_weights(model, run.layout.weights)
    return model.eval()
