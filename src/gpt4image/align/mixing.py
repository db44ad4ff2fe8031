"""Mixup, CutMix and several crops of an image: texts and labels are mixed in the same proportions as the images.

A mixing matrix M [B, S] holds in row i the share of each source in image i; rows sum to 1. The product of M and the
targets of the sources gives the targets of the images (Zhang et al., arXiv 1710.09412, equation 1; Yun et al., arXiv
1905.04899, equation 1; several crops: Caron et al., arXiv 2006.09882, section 3.3). `AlignmentLoss` takes M as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Return label distributions [S, C] of labels [S], smoothed as Szegedy et al., arXiv 1512.00567, section 7.

    Rows of unknown labels, -1, are zero, so they take no part in the cross-entropy.
    """
    one_hot = F.one_hot(labels.clamp(min=0), classes).to(torch.float32)  # [S, C]
    return (one_hot * (1 - smoothing) + smoothing / classes) * (labels >= 0)[:, None]


def crop_matrix(crops: int, sources: int, device: torch.device | None = None) -> Tensor:
    """Return the mixing matrix [crops * S, S] of several crops of each image; first the first crop of every image.

    >>> crop_matrix(2, 2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    return torch.eye(sources, device=device).repeat(crops, 1)
