r"""Alignment losses: pure functions of a batch of images and texts.

Each takes `Pairs` and a temperature tau and returns a sum over the images (or texts) of this process, weighted by the
share of each that has a text; `AlignmentLoss` divides by the sum of the weights over all processes. With
s_ij = <z_i, t_j> and targets p_ij (`gpt4image.align.targets`; where each image has one text of its own, 1 for i = j and
0 elsewhere):

- `clip`:       1/2 sum_i [-sum_j p_ij log softmax_j(s_ij / tau) - sum_j p'_ij log softmax_j(s_ji / tau)]
- `infonce`:    sum_i -sum_j p_ij log softmax_j(s_ij / tau)
- `cosine`:     sum_i (2 - 2 s_ii)
- `dot`:        `clip` with tau = 1 and s_ij = z_i . t_j of projections and texts of any length, where a mixed image has
                the mixture of its texts as its only text
- `sigmoid`:    sum_i -1/P_i sum_j [a_ij log sigma(s_ij / tau + b_i) + (1 - a_ij) log sigma(-s_ij / tau - b_i)] with
                affinities a_ij from 0 to 1, their sum P_i, and b_i = b + log(P_i / (columns - P_i))
- `relational`: sum_i KL(softmax_j(<t_i, t_j> / tau_t) || softmax_j(<z_i, z_j> / tau)), j other than i, whatever p
- `anchored`:   sum_i [T^2 KL(softmax_k(<t_i, c_k> / tau) || softmax_k(<z_i, c_k> / tau))
                + mean_{j != i} h(|z_i - z_j| - |t_i - t_j|)] with vectors c_k of the classes, T = tau / 0.07 and the
                smooth L1 function h(x) = x^2 / 2 for |x| < 1, |x| - 1/2 elsewhere; a mixed image has one text, the
                mixture, scaled to length 1

`clip`, `infonce` and `cosine` with targets `identity` are those of Ding et al., "GPT4Image", arXiv 2306.00693
(reference implementation huawei-noah/Efficient-Computing, GPT4Image, names `clip`, `ctr` and `byol`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt4image.align.pairs import TINY, PairRows, Pairs, only_allowed, unit_length

FEWEST = 1e-6  # number of negatives used in the log odds of a row without any, whose loss is then close to 0
FIRST_TEMPERATURE = 0.07  # of CLIP (arXiv 2103.00020, section 2.5): logits of distillation are cosines divided by it
NEAREST = 1e-6  # squared distance below which two vectors count as equal, because the root has no gradient at 0


def clip_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE both ways, image to text and text to image (Radford et al., arXiv 2103.00020, figure 3)."""
    return (infonce_loss(pairs, temperature) + row_cross_entropy(pairs.text_to_image(), temperature)) / 2


def infonce_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE from image to text (van den Oord et al., arXiv 1807.03748, equation 4)."""
    return row_cross_entropy(pairs.image_to_text(), temperature)


def cosine_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """Squared distance of unit vectors (Grill et al., BYOL, arXiv 2006.07733, equation 2); no temperature."""
    return (pairs.shares * (2 - 2 * pairs.own)).sum()  # [B]


def dot_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE both ways on plain dot products; no temperature (Nauen et al., TextTeacher, arXiv 2605.22098)."""
    return clip_loss(pairs, 1.0)


def sigmoid_loss(pairs: Pairs, temperature: Tensor | float, bias: Tensor) -> Tensor:
    """Independent binary cross-entropy of each pair (Zhai et al., SigLIP, arXiv 2303.15343, equation 1).

    The bias is learned as an offset from the log odds of a positive among the row's columns, and a row is divided by
    its positives: while nothing is known, the gradient is that of InfoNCE, whatever the targets, batch and queue.
    """
    rows = pairs.image_to_text(pairwise=True)
    positives = (rows.targets * rows.allowed).sum(dim=1, keepdim=True).clamp(min=TINY)  # [B, 1]
    negatives = (rows.allowed.sum(dim=1, keepdim=True) - positives).clamp(min=FEWEST)
    logits = rows.similarities / temperature + bias + (positives / negatives).log()  # [B, G]
    each = F.binary_cross_entropy_with_logits(logits, rows.targets, reduction="none") / positives
    loss: Tensor = (rows.weights * (each * rows.allowed).sum(dim=1)).sum()
    return loss


def relational_loss(pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """Match the similarities among images to those among their texts (Fang et al., SEED, arXiv 2101.04731, equation 5).

    The texts' similarities are the teacher's, and the batch takes the place of SEED's queue.
    """
    rows = pairs.image_to_image()
    entropy: Tensor = -torch.special.xlogy(rows.targets, rows.targets).sum(dim=1)  # [B]; 0 log 0 = 0
    return row_cross_entropy(rows, temperature) - (rows.weights * entropy).sum()


def anchored_loss(pairs: Pairs, temperature: Tensor | float, anchors: Tensor) -> Tensor:
    """Match the teacher's class probabilities and its distances (Jang et al., VL2Lite, CVPR 2025).

    The texts are the teacher's vectors of the images.

    Args:
        pairs: the batch.
        temperature: tau.
        anchors: unit vectors of the classes [C, D].
    """
    anchors = anchors.to(pairs.images.dtype)
    own, others = unit_length(pairs.texts.vectors), unit_length(pairs.all_texts.vectors)  # [B, D], [G', D]
    known, found = ((vectors @ anchors.T / temperature).log_softmax(dim=1) for vectors in (own, pairs.images))
    answers = (temperature / FIRST_TEMPERATURE) ** 2 * (known.exp() * (known - found)).sum(dim=1)  # [B]
    allowed = pairs.others()
    apart = F.smooth_l1_loss(distances(pairs.images, pairs.all_images), distances(own, others), reduction="none")
    relations = (apart * allowed).sum(dim=1) / allowed.sum(dim=1).clamp(min=1)  # [B]
    return (pairs.shares * (answers + relations)).sum()


def distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the distances of unit vectors [B, D] from others [G, D], at least 0.001, [B, G]."""
    return (2 - 2 * rows @ columns.T).clamp(min=NEAREST).sqrt()


def row_cross_entropy(rows: PairRows, temperature: Tensor | float) -> Tensor:
    """Sum over rows of the cross-entropy between targets and the softmax over the allowed columns.

    A row without any column has weight 0. No shape depends on the data, so nothing waits for the device.
    """
    logits = only_allowed(rows.similarities / temperature, rows.allowed)  # [R, G]
    return -(rows.weights * (rows.targets * logits.log_softmax(dim=1)).sum(dim=1)).sum()
