"""Schedules: learning rate, weights of labels and alignment, share of soft labels.

`epoch` counts the epochs done, fractions included, at the end of a step.
"""

from __future__ import annotations

import math

from gpt4image.train.recipe import Recipe


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate: linear warm-up from 0, then constant or cosine decay to `min_lr`.

    Loshchilov and Hutter, "SGDR", arXiv 1608.03983, equation 5. Training before the labels take part (`labels_from`)
    has a schedule of its own.

    >>> recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.1, min_lr=0.0)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    start, end = 0.0, recipe.labels_from * recipe.epochs
    if epoch > end:
        start, end = end, recipe.epochs
    warm = start + recipe.warmup_epochs
    if epoch < warm:
        return recipe.lr * (epoch - start) / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * _half_cosine(epoch, warm, end)


def label_weight(recipe: Recipe, epoch: float) -> float:
    """Return the weight of the label loss: `recipe.label_weight` after `labels_from`, 0 before.

    >>> recipe = Recipe(epochs=10, labels_from=0.5)
    >>> [label_weight(recipe, epoch) for epoch in (0.1, 5.0, 5.1, 10)]
    [0.0, 0.0, 1.0, 1.0]
    """
    return recipe.label_weight if epoch > recipe.labels_from * recipe.epochs else 0.0


def self_supervised_weight(recipe: Recipe, epoch: float) -> float:
    """Return the weight of the self-supervised loss: that of the recipe up to `labels_from`, 0 after.

    >>> recipe = Recipe(epochs=10, labels_from=0.5, self_supervised="simsiam")
    >>> [self_supervised_weight(recipe, epoch) for epoch in (0.1, 5.0, 5.1)]
    [1.0, 1.0, 0.0]
    """
    takes_part = recipe.self_supervised != "none" and epoch <= recipe.labels_from * recipe.epochs
    return recipe.self_supervised_weight if takes_part else 0.0


def alignment_weight(recipe: Recipe, epoch: float) -> float:
    """Return the weight of the alignment as a share of `recipe.weight`.

    Linear warm-up from 0, then constant or cosine decay to 0, and 0 after `align_until`.

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
    return _half_cosine(epoch, recipe.weight_warmup_epochs, end)


def soft_label_share(recipe: Recipe, epoch: float) -> float:
    """Return the share of soft labels: `recipe.soft_labels` between `soft_from` and `soft_until`, 0 elsewhere.

    >>> recipe = Recipe(epochs=10, soft_labels=0.5, soft_from=0.4)
    >>> [soft_label_share(recipe, epoch) for epoch in (1, 3.9, 4.1, 10)]
    [0.0, 0.0, 0.5, 0.5]
    """
    inside = recipe.soft_from * recipe.epochs < epoch <= recipe.soft_until * recipe.epochs
    return recipe.soft_labels if inside else 0.0


def _half_cosine(epoch: float, start: float, end: float) -> float:
    """Return half a cosine wave that falls from 1 at `start` to 0 at `end`."""
    progress = (epoch - start) / max(end - start, 1e-12)
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
