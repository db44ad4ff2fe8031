"""What training minimises: cross-entropy with hard and soft labels, and the alignment beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from timm.data import Mixup
from torch import Tensor, nn

from gpt4image.align.head import Targets
from gpt4image.align.mixing import label_targets
from gpt4image.train.data import Batch
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Objective:
    """The losses of a batch (arXiv 2306.00693, equation 3), at one moment of the training.

    Attributes:
        recipe: how to train.
        classes: number of classes.
        accelerator: precision and processes.
        weight: weight of the alignment loss now.
        soft_share: share of the labels that is soft now.
    """

    recipe: Recipe
    classes: int
    accelerator: Accelerator
    weight: float = 0.0
    soft_share: float = 0.0

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy and alignment loss of this process's part of the batch.

        Both are divided by what the whole optimiser step holds, so their means over processes and parts, and those of
        their gradients, do not depend on how it was divided.

        Args:
            model: an `AlignedModel`, however wrapped.
            batch: on the model's device.
        """
        inputs, mixing = batch.inputs, None
        targets = class_targets(batch, self.classes, self.recipe.label_smoothing, self.soft_share)
        if self.recipe.mixes:
            inputs, mixing = mix_images(self.recipe, inputs)
            targets = mixing @ targets
        with self.accelerator.autocast():
            output = model(inputs, self._vectors(batch), mixing)
        labelled = batch.counts[0] + self.soft_share * batch.counts[1]
        log_likelihood = (targets * output.logits.float().log_softmax(dim=1)).sum()
        classification = -log_likelihood * self.accelerator.num_processes / labelled.clamp(min=1e-6)
        alignment = torch.zeros_like(classification) if output.alignment is None else output.alignment
        return classification, alignment

    def _vectors(self, batch: Batch) -> Targets | None:
        if not batch.vectors:
            return None
        totals = tuple(count.clamp(min=1e-6) for count in batch.counts[2:])
        return Targets(batch.vectors, batch.known, batch.ids, batch.labels, totals)


def class_targets(batch: Batch, classes: int, smoothing: float, soft_share: float) -> Tensor:
    """What the classifier should answer [B, C], in the style of Hinton et al., arXiv 1503.02531, section 2.

    (1 - share) x the smoothed label + share x the soft label; where an image has one of them only, that one alone: the
    label at its full weight, the soft label at its share. Rows of images with neither are zero.
    """
    hard = label_targets(batch.labels, classes, smoothing)
    if not soft_share or not batch.soft.shape[1]:
        return hard
    has_soft = (batch.soft.sum(dim=1, keepdim=True) > 0).to(hard.dtype)
    return (1 - soft_share * has_soft) * hard + soft_share * batch.soft


def mix_images(recipe: Recipe, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch, and the mixing matrix [B, B].

    timm mixes any label; given the images' own positions as labels it returns what share of which image is where.
    """
    size = len(inputs)
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_probability, label_smoothing=0.0, num_classes=size)
    mixed, mixing = mixup(inputs, torch.arange(size, device=inputs.device))
    return mixed, mixing
