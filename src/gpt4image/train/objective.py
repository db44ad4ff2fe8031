"""The training objective: the loss of hard and soft labels, consistency, and the weighted alignment loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
        prior: share of each class in the labels that training sees, float32 [C]; None where no setting needs it.
    """

    recipe: Recipe
    classes: int
    accelerator: Accelerator
    weight: float = 0.0
    soft_share: float = 0.0
    prior: Tensor | None = None

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the alignment loss of this process's part of the batch, both scalars.

        Sums over images are divided by the counts of the whole optimiser step. So the means of losses and gradients
        over processes and parts do not depend on how the step was divided.

        Args:
            model: an `AlignedModel`, possibly wrapped.
            batch: a batch on the model's device.
        """
        inputs, mixing = batch.inputs, None  # [B, 3, H, W]
        own = targets = class_targets(batch, self.classes, self.recipe.label_smoothing, self.soft_share)  # [B, C]
        if self.recipe.mixes:
            inputs, mixing = mix_images(self.recipe, inputs)  # mixing [B, B]
            targets = mixing @ targets
        size = len(inputs)
        if batch.strong is not None:
            inputs = torch.cat([inputs, batch.strong])  # one pass, so that normalisation layers see both views
        with self.accelerator.autocast():
            output = model(inputs, self._vectors(batch), mixing)
        labelled = batch.counts[0] + self.soft_share * batch.counts[1]
        logits = output.logits.float()  # [B + U, C]
        classification = self._label_loss(logits[:size], targets) / labelled.clamp(min=1e-6)
        for answers in output.texts:  # the classifier of images classifies their texts as well
            told = self._label_loss(answers.logits.float(), own * answers.known[:, None]) / labelled.clamp(min=1e-6)
            classification = classification + self.recipe.shared_head / len(output.texts) * told
        if batch.strong is not None and batch.free is not None:
            weak = logits[:size][batch.labels < 0]
            consistency = consistency_loss(weak, logits[size:], self.recipe.consistency_threshold)
            classification = classification + self.recipe.consistency * consistency / batch.free.clamp(min=1e-6)
        # gradients are averaged over processes: times their number, they add up
        classification = classification * self.accelerator.num_processes
        alignment = torch.zeros_like(classification) if output.alignment is None else output.alignment
        return classification, alignment

    def adjusted(self, logits: Tensor) -> Tensor:
        """Return the model's answers [B, C] as the saved weights give them, adjusted after training if so set."""
        if self.prior is None or self.recipe.logit_adjustment != "post-hoc":
            return logits
        return adjust_logits(logits, self.prior.to(logits), self.recipe.adjustment_strength)

    def _label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the label loss over images, from logits and targets [B, C]."""
        recipe = self.recipe
        if self.prior is not None:
            prior = self.prior.to(logits.device)
            if recipe.logit_adjustment == "loss":
                logits = adjust_logits(logits, prior, -recipe.adjustment_strength)
            if recipe.class_weights == "balanced":
                targets = targets / (len(prior) * prior)
        loss = (
            gce_loss(logits, targets, recipe.gce_q) if recipe.label_loss == "gce" else target_entropy(logits, targets)
        )
        return loss

    def _vectors(self, batch: Batch) -> Targets | None:
        vectors, known = batch.vectors, batch.known
        totals: tuple[Tensor | None, ...] = tuple(count.clamp(min=1e-6) for count in batch.counts[2:])
        if batch.crops is not None:  # all are known, so the loss counts them itself
            everything = torch.ones(len(batch.crops), dtype=torch.bool, device=batch.crops.device)
            vectors, known, totals = (*vectors, batch.crops), (*known, everything), (*totals, None)
        return Targets(vectors, known, batch.ids, batch.labels, totals) if vectors else None


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


def target_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return sum_i -sum_k t_ik log p_ik of logits and targets [B, C], a scalar."""
    return -(targets * logits.log_softmax(dim=1)).sum()


def gce_loss(logits: Tensor, targets: Tensor, q: float) -> Tensor:
    """Return the generalised cross-entropy sum_i sum_k t_ik (1 - p_ik^q) / q (Zhang and Sabuncu, arXiv 1805.07836).

    That is their equation 6, weighted by targets that may be mixed or soft. It is bounded, so a label that the model
    finds impossible pulls little.

    Args:
        logits: [B, C].
        targets: [B, C].
        q: exponent, above 0 and at most 1.
    """
    return (targets * (1 - (q * logits.log_softmax(dim=1)).exp()) / q).sum()


def adjust_logits(logits: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Return logits [B, C] - strength log prior [C] (Menon et al., arXiv 2007.07314).

    A strength of tau adjusts the answers after training (their equation 9); -tau inside the cross-entropy trains a
    model whose plain answers are balanced (equation 10).
    """
    return logits - strength * prior.log()


def consistency_loss(weak: Tensor, strong: Tensor, threshold: float) -> Tensor:
    """Return FixMatch's loss on unlabelled images, a sum (Sohn et al., arXiv 2001.07685, equation 4).

    The answer for the weakly augmented view, where it is sure enough, is the label of the strongly augmented one.

    Args:
        weak: logits [U, C]; no gradient flows through them.
        strong: logits of the same images [U, C].
        threshold: probability that an answer needs.
    """
    surest, labels = weak.detach().softmax(dim=1).max(dim=1)
    return (F.cross_entropy(strong, labels, reduction="none") * (surest >= threshold)).sum()
