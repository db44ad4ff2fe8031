r"""Alignment losses: pure functions of a batch of images and texts.

All take `Pairs` and a temperature tau, and return a sum over the images (or texts) of this process, each weighted by
the share of it that has a text; `AlignmentLoss` divides by the sum of the weights over all processes. With
s_ij = <z_i, t_j> and targets p_ij (`gpt4image.align.targets`; one at i = j and zero elsewhere, where each image has one
text of its own):

- `clip`:       1/2 sum_i [-sum_j p_ij log softmax_j(s_ij / tau) - sum_j p'_ij log softmax_j(s_ji / tau)]
- `infonce`:    sum_i -sum_j p_ij log softmax_j(s_ij / tau)
- `cosine`:     sum_i (2 - 2 s_ii)
- `sigmoid`:    sum_i -sum_j [p_ij log sigma(s_ij / tau + b) + (1 - p_ij) log sigma(-s_ij / tau - b)], 0 <= p_ij <= 1
- `relational`: sum_i KL(softmax_j(<t_i, t_j> / tau_t) || softmax_j(<z_i, z_j> / tau)), j other than i, whatever p

`clip`, `infonce` and `cosine` with targets `identity` are those of Ding et al., "GPT4Image", arXiv 2306.00693
(reference implementation huawei-noah/Efficient-Computing, GPT4Image, names `clip`, `ctr` and `byol`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt4image.align.pairs import Pairs, Rows, only_allowed

LossFunction = Callable[..., Tensor]


LOSSES = {
    "clip": "gpt4image.align.functional:clip_loss",
    "infonce": "gpt4image.align.functional:infonce_loss",
    "cosine": "gpt4image.align.functional:cosine_loss",
    "sigmoid": "gpt4image.align.functional:sigmoid_loss",
    "relational": "gpt4image.align.functional:relational_loss",
}


def clip_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE both ways, image to text and text to image (Radford et al., arXiv 2103.00020, figure 3)."""
    return (infonce_loss(pairs, temperature) + cross_entropy(pairs.text_to_image(), temperature)) / 2


def infonce_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE from image to text (van den Oord et al., arXiv 1807.03748, equation 4)."""
    return cross_entropy(pairs.image_to_text(), temperature)


def cosine_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """Squared distance of unit vectors (Grill et al., BYOL, arXiv 2006.07733, equation 2); no temperature."""
    return (pairs.shares * (2 - 2 * pairs.own)).sum()


def sigmoid_loss(pairs: Pairs, temperature: Tensor | float, bias: Tensor) -> Tensor:
    """Each pair by itself, as fitting or not (Zhai et al., SigLIP, arXiv 2303.15343, equation 1)."""
    rows = pairs.image_to_text(pairwise=True)
    each = F.binary_cross_entropy_with_logits(rows.similarities / temperature + bias, rows.targets, reduction="none")
    loss: Tensor = (rows.weights * (each * rows.allowed).sum(dim=1)).sum()
    return loss


def relational_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """Images are to be like each other as their texts are (Fang et al., SEED, arXiv 2101.04731, equation 5).

    The teacher's similarities are those of the texts, and the queue is the batch.
    """
    rows = pairs.image_to_image()
    entropy: Tensor = -torch.special.xlogy(rows.targets, rows.targets).sum(dim=1)
    return cross_entropy(rows, temperature) - (rows.weights * entropy).sum()


def cross_entropy(rows: Rows, temperature: Tensor | float) -> Tensor:
    """Sum over rows of the cross-entropy of their targets and the softmax over the columns they are compared with.

    A row without any has weight 0. No shape depends on data, so nothing waits for a device.
    """
    logits = only_allowed(rows.similarities / temperature, rows.allowed)
    return -(rows.weights * (rows.targets * logits.log_softmax(dim=1)).sum(dim=1)).sum()


def only_known(vectors: Tensor, known: Tensor) -> Tensor:
    """Rows [N, D] that are known [N]; the others zero, whatever is in them, and their gradients too."""
    return torch.where(known[:, None], vectors, 0)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale rows to length 1 in at least float32; a zero row stays zero."""
    exact = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    return F.normalize(exact, dim=-1)
