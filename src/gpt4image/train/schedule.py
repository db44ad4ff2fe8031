"""Learning rate, weight of the alignment, and share of soft labels, as functions of progress."""

from __future__ import annotations

import math

from gpt4image.train.recipe import Recipe


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
