r"""Alignment losses: pure functions of projected image features and text vectors.

All take `z` [B, D] (projected image features) and `t` [B, D] (text vectors), both of unit length, and `has_text`
[B] (which images have a text). Images without text count neither as anchors nor as negatives. All return the mean
over the images that have text, as a scalar; 0 where there are none. Row i of `z` belongs to row i of `t`.

With s_ij = <z_i, t_j> and temperature tau (Ding et al., "GPT4Image", arXiv 2306.00693; reference implementation
huawei-noah/Efficient-Computing, GPT4Image, names `clip`, `ctr` and `byol`):

- `clip`:    -1/2 mean_i [log softmax_j(s_ij / tau)_i + log softmax_j(s_ji / tau)_i]
- `infonce`: -mean_i log softmax_j(s_ij / tau)_i
- `cosine`:  mean_i (2 - 2 s_ii)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = {
    "clip": "gpt4image.align.losses:clip_loss",
    "infonce": "gpt4image.align.losses:infonce_loss",
    "cosine": "gpt4image.align.losses:cosine_loss",
}


def clip_loss(z: Tensor, t: Tensor, has_text: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways, image to text and text to image (Radford et al., arXiv 2103.00020, figure 3)."""
    return (infonce_loss(z, t, has_text, temperature) + infonce_loss(t, z, has_text, temperature)) / 2


def infonce_loss(z: Tensor, t: Tensor, has_text: Tensor, temperature: float) -> Tensor:
    """InfoNCE from image to text (van den Oord et al., arXiv 1807.03748, equation 4).

    A row without text keeps its own column only: its loss is a finite constant and is left out of the mean, with
    no data-dependent shape and so no device synchronisation.
    """
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ t.T / temperature).masked_fill(~(has_text[None, :] | own), float("-inf"))
    log_likelihood = logits.log_softmax(dim=1).diagonal()
    return -masked_mean(log_likelihood, has_text)


def cosine_loss(z: Tensor, t: Tensor, has_text: Tensor, temperature: float) -> Tensor:
    """Squared distance of unit vectors (Grill et al., BYOL, arXiv 2006.07733, equation 2); no temperature."""
    return masked_mean(2 - 2 * (z * t).sum(dim=1), has_text)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values [B] where the mask [B] is set; 0 where it is set nowhere."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale rows to length 1 in at least float32; a zero row stays zero."""
    exact = vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors
    return F.normalize(exact, dim=-1)
