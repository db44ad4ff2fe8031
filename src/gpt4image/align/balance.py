"""The alignment's pull on the shared feature as a share of the classifier's, in one backward pass.

After Chen et al., GradNorm, arXiv 1711.02257, with the norms taken at the feature that both losses share in place of a
layer's weights: there they come for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gpt4image.align.gather import world


class BalancedSplit(torch.autograd.Function):
    """Two copies of a feature; the gradient of the second is scaled to a share of the norm of the first's."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch's context
        """The feature twice, for the classifier and for the alignment; the first may be changed in place.

        Args:
            ctx: torch's.
            feature: any shape.
            share: scalar; the norm of the second gradient, as a share of that of the first, over all processes.
        """
        ctx.save_for_backward(share)
        return feature.clone(), feature.view_as(feature)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's context
        """Sum of the first gradient and the scaled second one."""
        of_classifier, of_alignment = gradients
        (share,) = ctx.saved_tensors
        exact = torch.promote_types(of_alignment.dtype, torch.float32)
        squares = torch.stack([g.to(exact).square().sum() for g in gradients])
        if world().size > 1:
            dist.all_reduce(squares)
        classifier, alignment = squares.sqrt()
        scale = torch.where(alignment > 0, share * classifier / alignment, 0)
        return of_classifier + (scale * of_alignment.to(exact)).to(of_alignment.dtype), None


def split_balanced(feature: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The feature for the classifier and for the alignment, as `BalancedSplit` makes them."""
    pair: tuple[Tensor, Tensor] = BalancedSplit.apply(feature, share)
    return pair
