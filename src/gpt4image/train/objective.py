"""The training objective: the loss of hard and soft labels, consistency, and the weighted alignment loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from timm.data import Mixup
from torch import Tensor, nn

from gpt4image.align.head import Targets
from gpt4image.tasks.classification import consistency_loss
from gpt4image.tasks.task import Task
from gpt4image.train.data import Batch
from gpt4image.train.recipe import Recipe


@dataclass
class Objective:
    """The losses of a batch (arXiv 2306.00693, equation 3) at one moment of the training.

    Attributes:
        task: what is learned.
        classes: number of classes C.
        label_weight: current weight of the loss of the labels.
        weight: current weight of the alignment loss.
        self_supervised_weight: current weight of the self-supervised loss.
        soft_share: current share of the soft labels.
        prior: share of each class in the labels that training sees, float32 [C]; None where no setting needs it.
    """

    recipe: Recipe
    task: Task
    classes: int
    accelerator: Accelerator
    label_weight: float = 1.0
    weight: float = 0.0
    self_supervised_weight: float = 0.0
    soft_share: float = 0.0
    prior: Tensor | None = None

    def total(self, losses: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the weighted sum of the losses of labels, alignment and self-supervision."""
        classification, alignment, partner = losses
        total = self.label_weight * classification + self.weight * alignment
        return total if self.recipe.self_supervised == "none" else total + self.self_supervised_weight * partner

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of labels, alignment and self-supervision of this process's part of the batch, scalars.

        Sums over images are divided by the counts of the whole optimiser step. So the means of losses and gradients
        over processes and parts do not depend on how the step was divided.

        Args:
            model: an `AlignedModel`, possibly wrapped.
            batch: a batch on the model's device.
        """
        inputs, mixing = batch.inputs, None  # [B, 3, H, W]
        smoothing = self.recipe.label_smoothing
        own = targets = self.task.targets(batch.labels, batch.soft, self.classes, smoothing, self.soft_share)  # [B, T]
        second = {"second": batch.second} if self.self_supervised_weight else {}
        if self.recipe.mixes and not second:
            # a weak view's prediction labels a whole image, so images without a label are not mixed
            among = None if batch.strong is None else (batch.labels >= 0).nonzero()[:, 0]
            inputs, mixing = mix_images(self.recipe, inputs, among)  # mixing [B, B]
            targets = mixing @ targets
        size = len(inputs)
        if batch.strong is not None:
            inputs = torch.cat([inputs, batch.strong])  # one pass, so that normalisation layers see both views
        with self.accelerator.autocast():
            truth = [targets] if self.task.loss_in_model else []
            output = model(inputs, self._vectors(batch), mixing, *truth, **second)
        labelled = batch.counts[0] + self.soft_share * batch.counts[1]
        logits = output.logits.float()  # [B + U, C]
        classification = self.task.loss(logits[:size], targets, self.recipe, self.prior) / labelled.clamp(min=1e-6)
        for answers in output.texts:  # the image classifier classifies their texts as well
            known = own * answers.known[:, None]
            told = self.task.loss(answers.logits.float(), known, self.recipe, self.prior) / labelled.clamp(min=1e-6)
            classification = classification + self.recipe.shared_head / len(output.texts) * told
        if batch.strong is not None and batch.free is not None:
            weak = logits[:size][batch.labels < 0]
            consistency = consistency_loss(weak, logits[size:], self.recipe.consistency_threshold)
            classification = classification + self.recipe.consistency * consistency / batch.free.clamp(min=1e-6)
        # gradients are averaged over processes, so multiplying by their number sums them
        classification = classification * self.accelerator.num_processes
        alignment = torch.zeros_like(classification) if output.alignment is None else output.alignment
        partner = torch.zeros_like(classification) if output.self_supervised is None else output.self_supervised
        return classification, alignment, partner

    def adjusted(self, logits: Tensor) -> Tensor:
        """Return the model's answers [B, C] as the saved weights give them, adjusted after training if so set."""
        return self.task.adjusted(logits, self.prior, self.recipe)

    def _vectors(self, batch: Batch) -> Targets | None:
        vectors, known = batch.vectors, batch.known
        totals: tuple[Tensor | None, ...] = tuple(count.clamp(min=1e-6) for count in batch.counts[2:])
        if batch.crops is not None:  # all are known, so the loss counts them
            everything = torch.ones(len(batch.crops), dtype=torch.bool, device=batch.crops.device)
            vectors, known, totals = (*vectors, batch.crops), (*known, everything), (*totals, None)
        if batch.regions and batch.known_regions:  # their heads count them
            vectors, known = (*vectors, *batch.regions), (*known, *batch.known_regions)
            totals = (*totals, *[None] * len(batch.regions))
        # several labels per image are passed to the loss only if its targets use them
        labels = batch.labels if batch.labels.ndim == 1 or self.recipe.targets == "label" else None
        return Targets(vectors, known, batch.ids, labels, totals) if vectors else None


def mix_images(recipe: Recipe, inputs: Tensor, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Apply mixup or CutMix to images [B, 3, H, W]; return them with the share of each source in each image [B, B].

    The frames of clips [B, T, 3, H, W] are all mixed alike.

    Args:
        recipe: the settings.
        inputs: the images.
        among: positions of those to mix with each other, int64 [n]; of an odd number the last stays as it is. Default:
            all.
    """
    size = len(inputs)
    if among is not None:
        among = among[: len(among) - len(among) % 2]
        mixing = torch.eye(size, device=inputs.device)
        if len(among):
            mixed, mixing[among[:, None], among] = mix_images(recipe, inputs[among])
            inputs = inputs.index_copy(0, among, mixed)
        return inputs, mixing
    mixup = Mixup(recipe.mixup, recipe.cutmix, prob=recipe.mix_probability, label_smoothing=0.0, num_classes=size)
    # timm also mixes one-hot labels: with positions as labels, the result is the mixing matrix
    flat = inputs.flatten(1, -3) if inputs.ndim > 4 else inputs
    mixed, mixing = mixup(flat, torch.arange(size, device=inputs.device))
    return mixed.view(inputs.shape), mixing
