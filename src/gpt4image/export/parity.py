"""Comparison of an exported model with the trained one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported model with the trained one.

    Attributes:
        images: number of real images compared.
        difference: largest absolute difference of a logit.
        same_answers: images with the same predicted class.
    """

    form: str
    images: int
    difference: float
    same_answers: int

    def line(self) -> str:
        """Return the result as one line of text."""
        return (
            f"{self.form}: largest logit difference {self.difference:.1e} on {self.images} real images, "
            f"{self.same_answers}/{self.images} same predictions"
        )


@torch.no_grad()
def compare_logits(form: str, model: nn.Module, exported: Callable[[Tensor], Tensor], sample: Tensor) -> Parity:
    """Compare the logits of an exported form with those of the trained model on images [N, 3, H, W]."""
    expected, found = model(sample), exported(sample)
    same = int((expected.argmax(dim=1) == found.argmax(dim=1)).sum())
    return Parity(form, len(sample), float((expected - found).abs().max()), same)
