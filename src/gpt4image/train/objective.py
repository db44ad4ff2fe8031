"""The training objective: cross-entropy with hard and soft labels, plus the weighted alignment loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from timm.data import Mixup
from torch import Tensor, nn

from gpt4image.align.head import Targets
from gpt4image.align.mixing import label_targets
from gpt4image.train.data import Batch
from gpt4image.train.recipe import Recipe


@dataclass
class Objective:
    """The losses of a batch (arXiv 2306.00693, equation 3) at one moment of the training.

    Attributes:
        classes: number of classes C.
        weight: current weight of the alignment loss.
        soft_share: current share of the soft labels.
    """

    recipe: Recipe
    classes: int
    accelerator: Accelerator
    weight: float = 0.0
    soft_share: float = 0.0

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the alignment loss of this process's part of the batch, both scalars.

        Sums over images are divided by the counts of the whole optimiser step. So the means of losses and gradients
        over processes and parts do not depend on how the step was divided.

        Args:
            model: an `AlignedModel`, possibly wrapped.
            batch: a batch on the model's device.
        """
        inputs, mixing = batch.inputs, None  # [B, 3, H, W]
        targets = class_targets(batch, self.classes, self.recipe.label_smoothing, self.soft_share)  # [B, C]
        if self.recipe.mixes:
            inputs, mixing = mix_images(self.recipe, inputs)  # mixing [B, B]
            targets = mixing @ targets
        with self.accelerator.autocast():
            output = model(inputs, self._vectors(batch), mixing)
        labelled = batch.counts[0] + self.soft_share * batch.counts[1]
        log_likelihood = (targets * output.logits.float().log_softmax(dim=1)).sum()
        # gradients are averaged over processes: times their number, they add up
        classification = -log_likelihood * self.accelerator.num_processes / labelled.clamp(min=1e-6)
        alignment = torch.zeros_like(classification) if output.alignment is None else output.alignment
        return classification, alignment

    def _vectors(self, batch: Batch) -> Targets | None:
        if not batch.vectors:
            return None
        totals = tuple(count.clamp(min=1e-6) for count in batch.counts[2:])
        return Targets(batch.vectors, batch.known, batch.ids, batch.labels, totals)


def class_targets(batch: Batch, classes: int, smoothing: float, soft_share: float) -> Tensor:
    """Return the targets of the classifier [B, C], after Hinton et al., arXiv 1503.02531, section 2.

    An image with both labels gets (1 - share) x smoothed label + share x soft label, one without a soft label its
    smoothed label, and one without a label share x soft label. Rows of images with neither are zero.
    """
    hard = label_targets(batch.labels, classes, smoothing)
    if not soft_share or not batch.soft.shape[1]:
        return hard
    has_soft = (batch.soft.sum(dim=1, keepdim=True) > 0).to(hard.dtype)
    return (1 - soft_share * has_soft) * hard + soft_share * batch.soft


def mix_images(recipe: Recipe, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Apply mixup or CutMix to images [B, 3, H, W]; return them with the share of each source in each image [B, B]."""
    size = len(inputs)
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_probability, label_smoothing=0.0, num_classes=size)
    # timm mixes one-hot labels along: with the positions as labels they become the mixing matrix
    mixed, mixing = mixup(inputs, torch.arange(size, device=inputs.device))
    return mixed, mixing
