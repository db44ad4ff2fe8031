"""The learning rate as a function of progress."""

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
