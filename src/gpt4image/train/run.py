"""One training run: start it, resume it, and open the finished result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from safetensors.torch import save as safetensors_bytes
from torch import nn

from gpt4image.align.aligned_model import find_classifier
from gpt4image.core import console
from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import atomic_write, exclusive, read_json, write_json
from gpt4image.core.memory import keep_freed_memory
from gpt4image.core.signals import StopRequests, catch_stop_signals
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.clips import FrameChoice
from gpt4image.images.table import ImageTable
from gpt4image.train.backbone import whole_state
from gpt4image.train.build import build_trainer
from gpt4image.train.checkpoint import CheckpointTimer, restore_checkpoint
from gpt4image.train.family import find_family
from gpt4image.train.frozen import freeze
from gpt4image.train.guidance import ClassAnchors, Guidance, choose_guidance
from gpt4image.train.heads import save_heads
from gpt4image.train.identity import RunLayout, require_finished, siblings
from gpt4image.train.loop import Trainer, fit, train_step
from gpt4image.train.low_rank import count_parameters, merge_adapters
from gpt4image.train.processes import (
    device_name,
    limited_threads,
    loader_workers,
    make_accelerator,
    on_this_machine,
    require_pairs,
)
from gpt4image.train.recipe import AUGMENTATION, Recipe
from gpt4image.train.run_tracking import tracked
from gpt4image.train.spec import ARMS, CANDIDATE, Arm, RunInputs, RunSpec, check_task
from gpt4image.train.transforms import preprocessing, seed_everything
from gpt4image.train.weights import load_weights

if TYPE_CHECKING:
    from gpt4image.soft_labels import SoftLabels
    from gpt4image.train.tracking import Tracking

CHECKPOINT_SECONDS = 60.0
MEASURED_STEPS = 3  # steps that are timed to estimate how long a run will take
AfterEpoch = Callable[[list[dict[str, Any]]], None]
STOPPING = "Stopping after this step. Press Ctrl-C again to stop at once."


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        best_epoch: epoch whose weights were kept.
        best_accuracy: validation accuracy of that epoch, or what else the score of the task is, from 0 to 1.
        seconds: time spent on training and validation.
        history: one record per epoch.
        augmentation: version of the augmentation.
        steps: optimiser steps; 0 for runs of version 0.1, which did not record them.
        device: what it was trained on.
        task: name of its task.
        thresholds: what the task fitted to the validation images (`Task.fit_thresholds`).
        frames: which frames it sees of each clip; None for images that stand still.
        trained_parameters: number of parameters that were trained with low-rank adapters, these included; 0 without.
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
    augmentation: int = AUGMENTATION
    steps: int = 0
    device: str = ""
    task: str = "classification"
    thresholds: list[float] = field(default_factory=list)
    frames: FrameChoice | None = None
    trained_parameters: int = 0


def train_model(
    images: ImageTable,
    store: EmbeddingStore | Sequence[EmbeddingStore] | None,
    recipe: Recipe,
    folder: str | Path,
    *,
    soft_labels: Sequence[SoftLabels] = (),
    regions: EmbeddingStore | Sequence[EmbeddingStore] = (),
    margin: float = 0.0,
    anchors: ClassAnchors | None = None,
    arm: str = CANDIDATE,
    seed: int = 0,
    features: Path | None = None,
    workers: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    augmentation: int | None = None,
    progress: console.OpenProgress | None = None,
    tracking: Tracking | None = None,
) -> TrainedRun:
    """Train one model, resume its training, or return it if it is finished.

    A run that was killed and resumed ends with the same weights as an uninterrupted one, bit for bit on the same CPU.

    Args:
        images: training and validation images; test images are not used.
        store: text vectors of one or several encoders, and vectors of vision teachers; an arm that uses text needs
            some, or soft labels.
        recipe: training recipe.
        folder: folder of the run. If it holds a run created with different settings, that one is kept, and this
            run gets the same name with a hash at the end.
        soft_labels: labels of a classifier on the descriptions, or of teachers, for recipes with soft labels; for arms
            with stand-in labels those of `label_by_texts`, or of the baseline run.
        regions: vectors of the descriptions of boxes, as `images.crops.crop_images` makes them images, for detectors.
        margin: margin of these crops.
        anchors: a vision-language teacher with its anchors of the classes (`anchor_classes`), for `class-anchored`.
        arm: name of an arm, such as `baseline` or `described`.
        seed: seed of the initial classifier, the order, all augmentation, and the choice of texts.
        features: folder of cached features; the run's folder by default.
        workers: processes that prepare batches, None for the default (`loader_workers`); affects speed only.
        checkpoint_seconds: time between two checkpoints.
        augmentation: version of the augmentation; by default that of the run in the folder, or the newest.
        progress: opens the progress line of the steps. Default: a separate line.
        tracking: experiment trackers to send the run's figures to.

    Raises:
        ConfigError: settings exclude each other.
        TrainingError: the loss is not finite, or there are no images to train on.
        BusyError: another process is training this run.
    """
    folder = Path(folder)
    stores = () if store is None else several(store)
    spec = specify_run(
        RunInputs(images, stores, tuple(soft_labels), anchors, several(regions), margin),
        recipe,
        folder,
        arm=arm,
        seed=seed,
        features=features,
        workers=workers,
        checkpoint_seconds=checkpoint_seconds,
        augmentation=augmentation,
        tracking=tracking,
    )
    return begin_run(spec, folder, progress)


def several(stores: EmbeddingStore | Sequence[EmbeddingStore]) -> tuple[EmbeddingStore, ...]:
    """Return one or several stores as a tuple."""
    return (stores,) if isinstance(stores, EmbeddingStore) else tuple(stores)


def specify_run(
    inputs: RunInputs,
    recipe: Recipe,
    folder: Path,
    *,
    arm: str,
    seed: int,
    features: Path | None = None,
    workers: int | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    augmentation: int | None = None,
    tracking: Tracking | None = None,
    reserved: Collection[Path] = (),
) -> RunSpec:
    """Check everything that a run depends on and find its folder; see `train_model`, whose arguments these are.

    Args:
        reserved: folders of runs that are planned but have not begun.
    """
    chosen = ARMS.load(arm)
    recipe = on_this_machine(replace(recipe, **_settings_of(chosen, inputs.images)))
    stores, soft_labels = inputs.stores, inputs.soft_labels
    check_task(inputs.images, chosen, recipe)
    if seed < 0:
        raise ConfigError(f"seed should be 0 or greater, not {seed}.")
    if chosen.labels and not all(labels.manifest.estimate or chosen.labels == "baseline" for labels in soft_labels):
        raise ConfigError(f"Arm {arm!r} trains with text labels: pass those of label_by_texts, not soft labels.")
    if chosen.labels and inputs.images.has_label_sets and not inputs.filled:
        raise ConfigError(
            f"Arm {arm!r} trains with labels that texts have filled in: train it by gpt4image train or compare; or "
            "pass label_sets_by_texts(...).fill(images) as the images, and train the arm baseline or described."
        )
    if chosen.guidance == "anchors" and inputs.anchors is None:
        raise ConfigError(
            f"Arm {arm!r} needs a vision-language teacher and its anchors: pass the result of anchor_classes."
        )
    guided = stores or inputs.regions or inputs.anchors is not None
    if chosen.uses_text and not guided and not (recipe.soft_labels and soft_labels):
        raise ConfigError(
            f"Arm {arm!r} trains with descriptions or teachers: pass their vectors or soft labels, or train the arm "
            "baseline (--arm baseline)."
        )
    if inputs.regions and not inputs.images.has_boxes:
        raise ConfigError(
            "Descriptions of boxes (--crops) are for detectors and segmentation models: set task to detection or "
            "segmentation."
        )
    if not recipe.weight and chosen.labels:
        stores = ()
    classes = inputs.images.classes
    guidance = Guidance()
    if chosen.uses_text:
        guidance = choose_guidance(
            stores, soft_labels, recipe, classes, seed, inputs.anchors, inputs.regions, inputs.margin
        )
    spec = RunSpec(
        images=inputs.images,
        guidance=guidance,
        recipe=recipe if guidance.aligns or recipe.self_supervised != "none" else replace(recipe, labels_from=0.0),
        arm=chosen,
        seed=seed,
        layout=RunLayout(folder),
        features=features or folder,
        workers=loader_workers(workers),
        checkpoint_seconds=checkpoint_seconds,
        tracking=tracking,
        augmentation=augmentation or AUGMENTATION,
    )
    begun_with = [RunLayout(found).augmentation or AUGMENTATION for found in siblings(folder)]
    older = set(begun_with) - {AUGMENTATION}
    for version in sorted(older) if augmentation is None else ():  # a run keeps the augmentation it began with
        begun = replace(spec, augmentation=version).placed(reserved)
        if begun.layout.begun:
            return begun
    return spec.placed(reserved)


def _settings_of(arm: Arm, images: ImageTable) -> Mapping[str, Any]:
    """Return the recipe settings that an arm changes for some images.

    Of several labels an image, those that stand in for given ones are labels like these, and not soft.
    """
    return {**arm.settings, "soft_labels": 0.0} if arm.labels and images.has_label_sets else arm.settings


def begin_run(spec: RunSpec, named: Path, progress: console.OpenProgress | None = None) -> TrainedRun:
    """Train a run to its end; say first what differs from earlier ones, of which the first has the folder `named`."""
    if not spec.layout.begun and (changes := spec.describe_changes(named)):
        console.say(f"New run in {spec.layout.folder}, next to earlier ones: {'; '.join(changes)}.")
    return train_run(spec, progress)


def train_run(
    spec: RunSpec, progress: console.OpenProgress | None = None, after_epoch: AfterEpoch | None = None
) -> TrainedRun:
    """Train a run to its end, from its checkpoint if it has one; a finished one is opened.

    Args:
        spec: the run.
        progress: opens the line that shows the steps.
        after_epoch: called with the history after every epoch; what it raises ends the training.
    """
    accelerator, folder = make_accelerator(spec.recipe), spec.layout.folder
    first = accelerator.is_main_process  # holds the lock for all processes
    with exclusive(spec.layout.lock, f"the run in {folder}") if first else nullcontext():
        with accelerator.main_process_first():
            spec.claim_folder()
        if not spec.layout.result.exists():
            title = f"Train {spec.arm.name}, seed {spec.seed}"
            train_to_end(spec, accelerator, progress or partial(console.progress, title), after_epoch)
    accelerator.wait_for_everyone()
    return open_run(folder)


def train_to_end(
    spec: RunSpec, accelerator: Accelerator, progress: console.OpenProgress, after_epoch: AfterEpoch | None = None
) -> None:
    """Train from the last checkpoint, or from the start, and write the result."""
    seed_everything(spec.seed)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with console.doing(f"Preparing {spec.arm.name}, seed {spec.seed}"):
        backbone = find_family(spec.images.task).build(spec.recipe, len(spec.images.classes))
        trainer = build_trainer(spec, backbone, accelerator)
        require_pairs(trainer.plain_model, spec.recipe, accelerator.num_processes)
        restore_checkpoint(trainer, spec.layout.checkpoint)
    if after_epoch:
        trainer.after_epoch = after_epoch
    alone = accelerator.num_processes == 1  # several receive the signal at different steps and would wait forever
    stopping = catch_stop_signals(partial(console.say, STOPPING), first_only=True)
    with (
        stopping if alone else nullcontext(StopRequests()) as stop,
        progress(spec.recipe.epochs * trainer.steps_per_epoch) as meter,
        tracked(spec.tracking, spec, trainer) if spec.tracking and accelerator.is_main_process else nullcontext(),
    ):
        if accelerator.is_main_process:
            trainer.save = CheckpointTimer(spec.layout.checkpoint, spec.checkpoint_seconds, stop)
        try:
            with limited_threads(trainer.threads):
                fit(trainer, meter)
        except RuntimeError:  # the same Ctrl-C also stops the loader's workers
            if stop:
                raise KeyboardInterrupt from None
            raise
    if accelerator.is_main_process:
        write_result(trainer, backbone, spec)


def measure_step(spec: RunSpec) -> float:
    """Return the seconds that an optimiser step takes, from a few of them; nothing of the run is kept.

    A teacher that sees every crop comes on top (`measure_teacher`).
    """
    if spec.guidance.anchors is not None:
        spec = replace(spec, guidance=Guidance(), recipe=replace(spec.recipe, loss="clip"))
    accelerator = make_accelerator(spec.recipe)
    backbone = find_family(spec.images.task).build(spec.recipe, len(spec.images.classes))
    trainer = build_trainer(spec, backbone, accelerator)
    steps = min(1 + MEASURED_STEPS, trainer.steps_per_epoch)  # the first one warms up
    times: list[float] = []
    trainer.model.train()
    freeze(trainer.frozen)
    batches = iter(trainer.loader)
    with limited_threads(trainer.threads):
        for step in range(steps):
            started = time.monotonic()
            train_step(trainer, batches, step)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize(accelerator.device)
            times.append(time.monotonic() - started)
    return statistics.fmean(times[1:] or times)


def write_result(trainer: Trainer, backbone: nn.Module, spec: RunSpec) -> None:
    """Write the best weights and, last, the result; then delete the checkpoint."""
    progress, layout = trainer.progress, spec.layout
    trained = trainer.plain_model.backbone
    trained.load_state_dict(progress.best_weights)
    learned = count_parameters(trained)[0]
    if spec.recipe.lora:
        merge_adapters(trained)
    if spec.recipe.logit_adjustment == "post-hoc":  # into the bias, so that the deployed model includes it
        bias = find_classifier(trained).bias
        assert isinstance(bias, torch.Tensor)  # ensured by `check_label_settings`
        bias.data = trainer.objective.adjusted(bias.data[None])[0]
    with atomic_write(layout.weights) as file:
        file.write(safetensors_bytes(whole_state(backbone, trained)))
    if progress.best_heads:
        save_heads(layout.heads, trainer.plain_model, progress.best_heads, spec.guidance)
    result = {
        "preprocessing": preprocessing(backbone, trainer.recipe.image_size),
        "best_epoch": progress.best_epoch,
        "best_accuracy": progress.best_accuracy,
        "seconds": progress.seconds,
        "history": progress.history,
        "steps": trainer.recipe.epochs * trainer.steps_per_epoch,
        "device": device_name(trainer.accelerator, trainer.threads),
        **({"thresholds": progress.thresholds} if progress.thresholds else {}),
        **({"trained_parameters": learned} if spec.recipe.lora else {}),
    }
    write_json(layout.result, result)
    layout.checkpoint.unlink(missing_ok=True)


def open_run(folder: str | Path) -> TrainedRun:
    """Open a finished run. StoreError if there is none, or if it is damaged."""
    folder = Path(folder)
    layout = require_finished(folder)
    settings, result = read_json(layout.settings), read_json(layout.result)
    try:
        return TrainedRun(
            layout=layout,
            arm=ARMS.load(settings["arm"]),
            seed=settings["seed"],
            classes=tuple(settings["classes"]),
            recipe=Recipe.from_dict(settings["recipe"], source=str(layout.settings)),
            **result,
            augmentation=settings.get("augmentation", 1),
            task=settings.get("task", "classification"),
            frames=FrameChoice.from_name(settings["frames"]) if "frames" in settings else None,
        )
    except (KeyError, TypeError) as error:
        raise StoreError(f"{folder} is damaged or of another version ({error}). Delete it to train it again.") from None


def load_backbone(run: TrainedRun) -> nn.Module:
    """Load the trained model, on the CPU, in evaluation mode: a plain timm model with its classifier, or a detector."""
    model = find_family(run.task).create(run.recipe, len(run.classes))
    load_weights(model, run.layout.weights)
    return model.eval()
