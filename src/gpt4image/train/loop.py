"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gpt4image.align.aligned_model import AlignedModel
from gpt4image.core.console import Meter
from gpt4image.core.errors import TrainingError
from gpt4image.train.augment import seed_everything
from gpt4image.train.checkpoint import Progress
from gpt4image.train.data import Batch, EpochBatches
from gpt4image.train.frozen import freeze
from gpt4image.train.inference import predict_logits
from gpt4image.train.objective import Objective
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate after `epoch` epochs, fractions included (Loshchilov and Hutter, arXiv 1608.03983, equation 5).

    >>> recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.1, min_lr=0.0)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    # 1) a linear rise from 0 during the warm-up
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    # 2) then no change
    if recipe.schedule == "constant":
        return recipe.lr
    # 3) or half a cosine wave down to the lowest rate
    progress = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-12)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def alignment_weight(recipe: Recipe, epoch: float) -> float:
    """Weight of the alignment after `epoch` epochs, as a share of the recipe's weight.

    A linear rise, then none or half a cosine down to 0, where the alignment ends.

    >>> recipe = Recipe(epochs=10, weight_warmup_epochs=1, weight_schedule="cosine", align_until=0.5)
    >>> [round(alignment_weight(recipe, epoch), 3) for epoch in (0, 0.5, 1, 3, 5, 7)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    end = recipe.align_until * recipe.epochs
    if epoch > end or not end:
        return 0.0
    if epoch < recipe.weight_warmup_epochs:
        return epoch / recipe.weight_warmup_epochs
    if recipe.weight_schedule == "constant":
        return 1.0
    progress = (epoch - recipe.weight_warmup_epochs) / max(end - recipe.weight_warmup_epochs, 1e-12)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def soft_label_share(recipe: Recipe, epoch: float) -> float:
    """Share of the labels that is soft after `epoch` epochs.

    >>> recipe = Recipe(epochs=10, soft_labels=0.5, soft_from=0.4)
    >>> [soft_label_share(recipe, epoch) for epoch in (1, 3.9, 4.1, 10)]
    [0.0, 0.0, 0.5, 0.5]
    """
    inside = recipe.soft_from * recipe.epochs < epoch <= recipe.soft_until * recipe.epochs
    return recipe.soft_labels if inside else 0.0


SHOWN_IDS = 8


class LossWatch:
    """Collects losses on the device and looks at them every few steps, so that a GPU is not waited for at every step.

    All processes must look at the same steps.

    Args:
        interval: steps between two looks.
        image_ids: names images by their positions in the table, for the error message.
        gather: joins a tensor [1, ...] over all P processes to [P, ...].
    """

    def __init__(
        self, interval: int, image_ids: Callable[[list[int]], list[str]], gather: Callable[[Tensor], Tensor]
    ) -> None:
        self._interval, self._image_ids, self._gather = interval, image_ids, gather
        self._pending: list[tuple[int, int, Tensor, Tensor]] = []
        self.classification_sum = 0.0
        self.alignment_sum = 0.0

    def record(self, epoch: int, step: int, rows: Tensor, losses: Tensor) -> None:
        """Take note of a step's losses [2], classification and alignment, and of its images' table positions [B]."""
        self._pending.append((epoch, step, rows, losses.detach()))
        if len(self._pending) >= self._interval:
            self.look()

    @property
    def looked(self) -> bool:
        """Whether every recorded loss has been looked at."""
        return not self._pending

    def look(self) -> None:
        """Add up the losses since the last look, as means over processes. TrainingError when one is not finite.

        They are added one by one, so that the sum does not depend on when they are looked at.
        """
        if self.looked:
            return
        own = torch.stack([losses for *_, losses in self._pending])
        means = self._gather(own[None]).mean(dim=0).tolist()
        if not all(math.isfinite(loss) for step in means for loss in step):
            self._fail(own)
        for classification, alignment in means:
            self.classification_sum += classification
            self.alignment_sum += alignment
        self._pending.clear()

    def _fail(self, own: Tensor) -> None:
        bad = (~torch.isfinite(own)).any(dim=1).nonzero()
        advice = (
            "Try a lower --lr, --clip-grad 1.0, --precision no, or a higher --temperature; and look at these images: "
            "gpt4image images DATA."
        )
        if not len(bad):
            raise TrainingError(f"The loss of another process is not a number. {advice}")
        epoch, step, rows, losses = self._pending[int(bad[0])]
        classification, alignment = losses.tolist()
        ids = self._image_ids(rows.tolist())
        shown = ", ".join(ids[:SHOWN_IDS]) + (f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else "")
        raise TrainingError(
            f"The loss is not a number at epoch {epoch}, step {step} (classification {classification}, "
            f"alignment {alignment}). "
            f"Images of the batch: {shown}. {advice}"
        )


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
