"""The training loop, from top to bottom: `fit`, `train_epoch`, `train_step`, `validate`, `record_epoch`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gpt4image.align.aligned_model import AlignedModel
from gpt4image.core.console import Meter
from gpt4image.core.errors import TrainingError, first_line
from gpt4image.train.data import Batch, EpochBatches
from gpt4image.train.frozen import freeze
from gpt4image.train.objective import Objective
from gpt4image.train.processes import predict_logits
from gpt4image.train.recipe import Recipe
from gpt4image.train.schedules import (
    alignment_weight,
    label_weight,
    learning_rate,
    self_supervised_weight,
    soft_label_share,
)
from gpt4image.train.self_supervised import PartneredModel
from gpt4image.train.transforms import Normalization, seed_everything

STEP_STREAM = 1  # separates the draws of training steps from those of images, whose keys are shorter
SHOWN_IDS = 8


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        epoch: finished epochs.
        step: optimiser steps done in the current epoch.
        classification_sum: sum of the cross-entropy over those steps.
        alignment_sum: sum of the alignment loss over those steps.
        self_supervised_sum: sum of the self-supervised loss over those steps.
        history: one record per epoch (`EpochRecord` as plain values).
        best_epoch: epoch of the highest validation score, the first of equals.
        best_accuracy: that accuracy, or what else the task's score is.
        thresholds: what the task fitted to the validation images after that epoch (`Task.fit_thresholds`).
        best_weights: weights of the trained part after that epoch, on the CPU.
        best_heads: those of the alignment heads, likewise; empty in checkpoints of version 0.1.
        seconds: time spent.
    """

    epoch: int = 0
    step: int = 0
    classification_sum: float = 0.0
    alignment_sum: float = 0.0
    self_supervised_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0
    thresholds: list[float] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_heads: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Trainer:
    """Everything needed to train a run.

    Attributes:
        seed: seed of order, augmentation, mixing and dropout.
        ema: moving average of the model, if the recipe asks for one.
        normalize: what prepares the inputs on their device.
        threads: threads that a step can use on a CPU; None for those there are.
        teacher: maps these to the vectors of a teacher that sees every crop; None for none, or if they are stored.
        validation_targets: probability of each class for the validation images, float64 [N, C].
        save: called after every step and epoch, to write a checkpoint if one is due.
        track: called after every epoch, to send its record to experiment trackers.
        after_epoch: called with the history after every epoch and its checkpoint; what it raises ends the training.
    """

    recipe: Recipe
    seed: int
    model: nn.Module
    optimizer: Any
    ema: ModelEmaV3 | None
    frozen: list[nn.Module]
    objective: Objective
    loader: DataLoader[Batch]
    batches: EpochBatches
    validation: DataLoader[Batch]
    validation_targets: np.ndarray
    accelerator: Accelerator
    watch: LossWatch
    normalize: Normalization
    threads: int | None = None
    teacher: Callable[[Tensor], Tensor] | None = None
    progress: Progress = field(default_factory=Progress)
    save: Callable[[Trainer], None] = lambda _: None
    track: Callable[[Trainer], None] = lambda _: None
    after_epoch: Callable[[list[dict[str, Any]]], None] = lambda _: None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return len(self.batches) // self.recipe.accumulate

    @property
    def plain_model(self) -> AlignedModel:
        """The model without the wrapper of distributed training."""
        model: AlignedModel = self.accelerator.unwrap_model(self.model)
        return model

    @property
    def kept_model(self) -> AlignedModel:
        """The model that is validated and saved: the moving average if there is one."""
        kept: AlignedModel = self.ema.module if self.ema else self.plain_model
        return kept


def fit(trainer: Trainer, meter: Meter) -> None:
    """Train from `trainer.progress` to the last epoch; the meter advances by one per step."""
    progress = trainer.progress
    meter.start(progress.epoch * trainer.steps_per_epoch + progress.step)
    while progress.epoch < trainer.recipe.epochs:
        started = time.monotonic()
        train_epoch(trainer, meter)
        score, thresholds = validate(trainer)
        record_epoch(trainer, score, thresholds, time.monotonic() - started)
        trainer.track(trainer)
        meter.note(f"val {score:.1%} best {progress.best_accuracy:.1%}")
        trainer.save(trainer)
        trainer.after_epoch(progress.history)


def train_epoch(trainer: Trainer, meter: Meter) -> None:
    """Train the rest of the current epoch, which is empty if the run was killed after the last step."""
    recipe, progress = trainer.recipe, trainer.progress
    trainer.model.train()
    freeze(trainer.frozen)  # `train` has put their normalisation layers into training mode
    trainer.batches.epoch, trainer.batches.start = progress.epoch, progress.step * recipe.accumulate
    batches = iter(trainer.loader)
    for step in range(progress.step, trainer.steps_per_epoch):
        losses, rows = train_step(trainer, batches, step)
        trainer.watch.record(progress.epoch, step, rows, losses)
        progress.step = step + 1
        meter.advance()
        trainer.save(trainer)
    trainer.watch.flush()


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn torch's errors about memory and compilation into TrainingError, which names the remedy."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):  # of a GPU, of a CPU
            raise TrainingError(
                f"A training step needs more memory than there is ({first_line(error)}). Split the batches with "
                "accumulate (--accumulate), set grad_checkpointing (--grad-checkpointing), or lower batch_size "
                "(--batch-size) or image_size (--image-size)."
            ) from None
        dynamo = sys.modules.get("torch._dynamo.exc")  # loaded only where torch compiles
        if dynamo is not None and isinstance(error, dynamo.BackendCompilerFailed):
            raise TrainingError(
                f"torch.compile failed ({first_line(error)}). It needs a C++ compiler, such as g++: install one, or "
                "leave out compile (--compile)."
            ) from None
        raise


@clear_errors()
def train_step(trainer: Trainer, batches: Iterator[Batch], step: int) -> tuple[Tensor, Tensor]:
    """Take one optimiser step; return its mean losses [3] and the images' table positions [B]."""
    recipe = trainer.recipe
    # 1) schedules: learning rate, weights of the two losses, share of soft labels
    epoch = trainer.progress.epoch + (step + 1) / trainer.steps_per_epoch
    follow_schedules(trainer, epoch)
    # 2) gradients of all parts of the batch
    losses, rows = accumulate_gradients(trainer, batches, step)
    # 3) optimiser step
    if recipe.clip_grad is not None:
        clip_gradients(trainer, recipe.clip_grad)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if trainer.objective.self_supervised_weight and isinstance(model := trainer.plain_model, PartneredModel):
        model.partner.follow(model.backbone, epoch / (recipe.epochs * recipe.labels_from))
    if trainer.ema:
        trainer.ema.update(trainer.plain_model)
    return losses, rows


def follow_schedules(trainer: Trainer, epoch: float) -> None:
    """Set learning rate, weights of the losses and soft-label share for a step."""
    recipe, objective = trainer.recipe, trainer.objective
    rate = learning_rate(recipe, epoch)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    weight = alignment_weight(recipe, epoch)
    objective.label_weight = label_weight(recipe, epoch)
    objective.self_supervised_weight = self_supervised_weight(recipe, epoch)
    objective.weight, objective.soft_share = recipe.weight * weight, soft_label_share(recipe, epoch)
    if recipe.balance is not None:
        trainer.plain_model.set_share(recipe.balance * weight)


def accumulate_gradients(trainer: Trainer, batches: Iterator[Batch], step: int) -> tuple[Tensor, Tensor]:
    """Run the backward passes of one optimiser step; return its mean losses [3] and its images' table positions [B]."""
    parts, device = trainer.recipe.accumulate, trainer.accelerator.device
    total = torch.zeros(3, device=device)
    rows = []
    for part in range(parts):
        batch = next(batches)
        rows.append(batch.rows)
        batch = batch.to(device)
        strong, second = (None if view is None else trainer.normalize(view) for view in (batch.strong, batch.second))
        batch = batch._replace(inputs=trainer.normalize(batch.inputs), strong=strong, second=second)
        if trainer.teacher is not None:
            batch = batch._replace(crops=trainer.teacher(batch.inputs))
        # mixing and dropout draw only from this key; after `next`, since the loader may draw in this process too
        process = trainer.accelerator.process_index
        seed_everything(trainer.seed, trainer.progress.epoch, step, part, process, STEP_STREAM)
        last = part == parts - 1  # processes exchange gradients once per step
        with nullcontext() if last else trainer.accelerator.no_sync(trainer.model):
            losses = trainer.objective.losses(trainer.model, batch)
            trainer.accelerator.backward(trainer.objective.total(losses) / parts)
        total += torch.stack([loss.detach() for loss in losses]) / parts
    return total, torch.cat(rows)


def clip_gradients(trainer: Trainer, max_norm: float) -> None:
    """Clip the gradient norms of the backbone, of the heads and of a self-supervised partner separately.

    With a common norm, the projectors' gradients would shorten the backbone's steps in arms with projectors.
    """
    trainer.accelerator.unscale_gradients()
    model = trainer.plain_model
    partner = [model.partner] if isinstance(model, PartneredModel) else []
    for part in (model.backbone, model.heads, *partner):
        if parameters := list(part.parameters()):
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def validate(trainer: Trainer) -> tuple[float, list[float]]:
    """Return the task's score on the validation images, such as the accuracy, and the thresholds fitted to them."""
    logits = predict_logits(trainer.kept_model.backbone, trainer.validation, trainer.normalize, trainer.accelerator)
    adjusted = trainer.objective.adjusted(torch.from_numpy(logits)).numpy()
    task, targets = trainer.objective.task, trainer.validation_targets
    return task.validation_score(adjusted, targets), task.fit_thresholds(adjusted, targets)


def record_epoch(trainer: Trainer, score: float, thresholds: list[float], seconds: float) -> None:
    """Append the epoch to the history, keep its weights if they are the best so far, and move on to the next."""
    progress, watch, kept = trainer.progress, trainer.watch, trainer.kept_model
    progress.seconds += seconds
    partnered = trainer.recipe.self_supervised != "none" and progress.epoch < trainer.recipe.pretraining_epochs
    progress.history.append(
        {
            "epoch": progress.epoch,
            "learning_rate": learning_rate(trainer.recipe, progress.epoch + 1),  # that of its last step
            "classification_loss": watch.classification_sum / trainer.steps_per_epoch,
            "alignment_loss": watch.alignment_sum / trainer.steps_per_epoch if trainer.plain_model.heads else None,
            **({"self_supervised_loss": watch.self_supervised_sum / trainer.steps_per_epoch} if partnered else {}),
            "validation_accuracy": score,
            "seconds": seconds,
        }
    )
    if trainer.recipe.keep == "last" or score > progress.best_accuracy:
        progress.best_epoch, progress.best_accuracy, progress.thresholds = progress.epoch, score, thresholds
        progress.best_weights, progress.best_heads = map(_copy_state, (kept.backbone, kept.heads))
    watch.classification_sum = watch.alignment_sum = watch.self_supervised_sum = 0.0
    progress.epoch, progress.step = progress.epoch + 1, 0


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


class LossWatch:
    """Collects losses on the device and reads them every few steps, since every read waits for the GPU.

    All processes must read at the same steps.

    Args:
        interval: steps between two reads.
        name_images: returns the names of images by their table positions, for the error message.
        gather: joins a tensor [1, ...] of each of P processes to [P, ...].

    Attributes:
        on_read: called with each step's epoch, number in it, and mean losses [3] over processes, when they are read.
    """

    def __init__(
        self, interval: int, name_images: Callable[[list[int]], list[str]], gather: Callable[[Tensor], Tensor]
    ) -> None:
        self._interval, self._name_images, self._gather = interval, name_images, gather
        self._pending: list[tuple[int, int, Tensor, Tensor]] = []
        self.classification_sum = 0.0
        self.alignment_sum = 0.0
        self.self_supervised_sum = 0.0
        self.on_read: Callable[[int, int, list[float]], None] = lambda *_: None

    def record(self, epoch: int, step: int, rows: Tensor, losses: Tensor) -> None:
        """Record a step's losses [3], labels, alignment and self-supervision, and its images' table positions [B]."""
        self._pending.append((epoch, step, rows, losses.detach()))
        if len(self._pending) >= self._interval:
            self.flush()

    @property
    def flushed(self) -> bool:
        """Whether all recorded losses have been read."""
        return not self._pending

    def flush(self) -> None:
        """Read the pending losses and add their means over processes to the sums.

        Raises:
            TrainingError: a loss is not finite.
        """
        if self.flushed:
            return
        own = torch.stack([losses for *_, losses in self._pending])  # [steps, 3]
        means = self._gather(own[None]).mean(dim=0).tolist()
        if not all(math.isfinite(loss) for step in means for loss in step):
            raise TrainingError(self._diagnosis(own))
        # one by one: the sums must not depend on when losses are read
        for (epoch, step, *_), losses in zip(self._pending, means, strict=True):
            self.classification_sum += losses[0]
            self.alignment_sum += losses[1]
            self.self_supervised_sum += losses[2]
            self.on_read(epoch, step, losses)
        self._pending.clear()

    def _diagnosis(self, own: Tensor) -> str:
        """Return the message for the first of this process's losses [steps, 3] that is not finite."""
        advice = (
            "Try a lower lr (--lr), clip_grad (--clip-grad) 1.0, precision (--precision) no or a higher temperature "
            "(--temperature), and inspect these images."
        )
        bad = (~torch.isfinite(own)).any(dim=1).nonzero()
        if not len(bad):
            return f"The loss of another process is not a finite number. {advice}"
        epoch, step, rows, losses = self._pending[int(bad[0])]
        classification, alignment, partner = losses.tolist()
        more_losses = f", self-supervised {partner}" if partner else ""
        names = self._name_images(rows.tolist())
        more = f" and {len(names) - SHOWN_IDS} more" if len(names) > SHOWN_IDS else ""
        return (
            f"The loss is not a finite number in epoch {epoch + 1}, step {step + 1} (classification {classification}, "
            f"alignment {alignment}{more_losses}). Images of the batch: {', '.join(names[:SHOWN_IDS])}{more}. {advice}"
        )
