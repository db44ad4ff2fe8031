"""The training loop, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gpt4image.align.model import AlignedModel
from gpt4image.console import Meter
from gpt4image.train.augment import seed_everything
from gpt4image.train.checkpoint import Progress
from gpt4image.train.data import Batch, EpochBatches
from gpt4image.train.frozen import freeze
from gpt4image.train.inference import predict_logits
from gpt4image.train.objective import Objective
from gpt4image.train.recipe import Recipe
from gpt4image.train.schedule import alignment_weight, learning_rate, soft_label_share
from gpt4image.train.watch import LossWatch

if TYPE_CHECKING:
    from accelerate import Accelerator

STEP_STREAM = 1
"""Keeps the draws of training steps apart from those of images (which have no such number in their key)."""


@dataclass
class Trainer:
    """All parts of a run.

    Attributes:
        recipe: how to train.
        seed: seed of order, augmentation, mixing and dropout.
        model: the model to train, prepared for its device.
        optimizer: likewise.
        ema: moving average of the model, if the recipe has one.
        frozen: modules that stay as they are.
        objective: what is minimised.
        loader: training batches; `batches` decides their order.
        batches: order of the training batches.
        validation: loader of the validation images.
        validation_labels: their labels [N].
        accelerator: device, processes, precision.
        watch: watches the losses.
        progress: how far the run has come.
        save: called after every step and epoch, to write a checkpoint when it is time to.
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
    validation_labels: Tensor
    accelerator: Accelerator
    watch: LossWatch
    progress: Progress
    save: Callable[[Trainer], None] = lambda _: None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return len(self.batches) // self.recipe.accumulate

    def follow_schedules(self, epoch: float) -> None:
        """Set what changes in the course of training for a step that ends after so many epochs."""
        progress = alignment_weight(self.recipe, epoch)
        self.objective.weight = self.recipe.weight * progress
        self.objective.soft_share = soft_label_share(self.recipe, epoch)
        if self.recipe.balance is not None:
            self.plain_model.set_share(self.recipe.balance * progress)

    @property
    def plain_model(self) -> AlignedModel:
        """The model without what distributed training wraps around it."""
        model: AlignedModel = self.accelerator.unwrap_model(self.model)
        return model

    @property
    def kept_backbone(self) -> nn.Module:
        """The backbone that is validated and kept: the moving average where there is one."""
        kept: nn.Module = (self.ema.module if self.ema else self.plain_model).backbone
        return kept


def fit(trainer: Trainer, meter: Meter) -> None:
    """Train from wherever `trainer.progress` stands to the last epoch, one tick of the meter a step."""
    progress = trainer.progress
    meter.set(progress.epoch * trainer.steps_per_epoch + progress.step)
    while progress.epoch < trainer.recipe.epochs:
        started = time.monotonic()
        rate = train_epoch(trainer, meter)
        accuracy = validate(trainer)
        record_epoch(trainer, rate, accuracy, time.monotonic() - started)
        meter.note(f"val {accuracy:.1%} best {progress.best_accuracy:.1%}")
        trainer.save(trainer)


def train_epoch(trainer: Trainer, meter: Meter) -> float:
    """Train the rest of the current epoch; the learning rate of its last step."""
    recipe, progress = trainer.recipe, trainer.progress
    trainer.model.train()
    freeze(trainer.frozen)
    trainer.batches.epoch, trainer.batches.start = progress.epoch, progress.step * recipe.accumulate
    batches = iter(trainer.loader)
    rate = 0.0
    for step in range(progress.step, trainer.steps_per_epoch):
        # 1) the learning rate follows the share of the epoch that is done
        rate = learning_rate(recipe, progress.epoch + (step + 1) / trainer.steps_per_epoch)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        trainer.follow_schedules(progress.epoch + (step + 1) / trainer.steps_per_epoch)
        # 2) gradients of all parts of the batch
        losses, rows = accumulate_gradients(trainer, batches, step)
        # 3) one optimiser step
        if recipe.clip_grad is not None:
            clip_gradients(trainer, recipe.clip_grad)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        if trainer.ema:
            trainer.ema.update(trainer.plain_model)
        # 4) accounts
        trainer.watch.record(progress.epoch, step, rows, losses)
        progress.step = step + 1
        meter.advance()
        trainer.save(trainer)
    trainer.watch.look()
    return rate


def clip_gradients(trainer: Trainer, largest: float) -> None:
    """Bound the norm of the gradients: those of the backbone, and those of the heads by themselves.

    Together a projector's gradients would shorten the backbone's steps in the arm that has one.
    """
    trainer.accelerator.unscale_gradients()
    for part in (trainer.plain_model.backbone, trainer.plain_model.heads):
        if parameters := list(part.parameters()):
            torch.nn.utils.clip_grad_norm_(parameters, largest)


def accumulate_gradients(trainer: Trainer, batches: Iterator[Batch], step: int) -> tuple[Tensor, Tensor]:
    """Backward passes of one optimiser step: its mean losses [2], and the table positions of its images.

    Mixing and dropout draw from seed, epoch, step, part and process alone: the loader, which may have drawn in this
    process, comes first.
    """
    parts = trainer.recipe.accumulate
    total = torch.zeros(2, device=trainer.accelerator.device)
    rows = []
    for part in range(parts):
        batch = next(batches)
        rows.append(batch.rows)
        process = trainer.accelerator.process_index
        seed_everything(trainer.seed, trainer.progress.epoch, step, part, process, STEP_STREAM)
        last = part == parts - 1
        with nullcontext() if last else trainer.accelerator.no_sync(trainer.model):
            objective = trainer.objective
            classification, alignment = objective.losses(trainer.model, batch.to(trainer.accelerator.device))
            trainer.accelerator.backward((classification + objective.weight * alignment) / parts)
        total += torch.stack([classification.detach(), alignment.detach()]) / parts
    return total, torch.cat(rows)


def validate(trainer: Trainer) -> float:
    """Accuracy on the validation images."""
    logits = predict_logits(trainer.kept_backbone, trainer.validation, trainer.accelerator)
    answers = torch.from_numpy(logits).argmax(dim=1)
    return float((answers == trainer.validation_labels).double().mean())


def record_epoch(trainer: Trainer, rate: float, accuracy: float, seconds: float) -> None:
    """Write the epoch into the history, keep the weights if they are the best so far, and go on to the next."""
    progress, watch = trainer.progress, trainer.watch
    progress.seconds += seconds
    progress.history.append(
        {
            "epoch": progress.epoch,
            "learning_rate": rate,
            "classification_loss": watch.classification_sum / trainer.steps_per_epoch,
            "alignment_loss": watch.alignment_sum / trainer.steps_per_epoch if trainer.plain_model.heads else None,
            "validation_accuracy": accuracy,
            "seconds": seconds,
        }
    )
    if accuracy > progress.best_accuracy:
        progress.best_epoch, progress.best_accuracy = progress.epoch, accuracy
        progress.best_weights = {k: v.detach().cpu().clone() for k, v in trainer.kept_backbone.state_dict().items()}
    watch.classification_sum = watch.alignment_sum = 0.0
    progress.epoch, progress.step = progress.epoch + 1, 0
