"""Mixup and cutmix for texts: targets are mixed with the same partners and shares as the images.

A mixing matrix M [B, B] holds, in row i, the share of each source image in mixed image i (rows sum to 1). Labels and
texts follow by one matrix product each, whatever way the images were mixed (Zhang et al., arXiv 1710.09412, equation 1;
Yun et al., arXiv 1905.04899, equation 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mix_labels(mixing: Tensor, labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Mixed label distributions [B, C] of labels [B], smoothed as Szegedy et al., arXiv 1512.00567, section 7."""
    one_hot = F.one_hot(labels, classes).to(mixing.dtype)
    return mixing @ (one_hot * (1 - smoothing) + smoothing / classes)


def mix_text(mixing: Tensor, text: Tensor, has_text: Tensor) -> tuple[Tensor, Tensor]:
    """Mixed text vectors [B, D], and which mixed images have text.

    A mixed image has text only when every image in it has: half of its target would be unknown otherwise, so it
    trains on cross-entropy alone.
    """
    known = torch.where(has_text[:, None], text, 0).to(mixing.dtype)
    share_without_text = mixing @ (~has_text).to(mixing.dtype)
    return mixing @ known, share_without_text == 0
