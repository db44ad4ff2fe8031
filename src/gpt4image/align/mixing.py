"""Mixup, cutmix and several crops of an image: whatever is done to images is done to labels and texts alike.

A mixing matrix M [B, S] holds, in row i, the share of each source in image i (rows sum to 1). Targets of images follow
from those of sources by one product with M (Zhang et al., arXiv 1710.09412, equation 1; Yun et al., arXiv 1905.04899,
equation 1; several crops: Caron et al., arXiv 2006.09882, section 3.3). `AlignmentLoss` takes M as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Label distributions [S, C] of labels [S], smoothed as Szegedy et al., arXiv 1512.00567, section 7.

    Rows of unknown labels, -1, are zero: they take no part in the cross-entropy.
    """
    one_hot = F.one_hot(labels.clamp(min=0), classes).to(torch.float32)
    return (one_hot * (1 - smoothing) + smoothing / classes) * (labels >= 0)[:, None]


def crop_matrix(crops: int, sources: int, device: torch.device | None = None) -> Tensor:
    """Mixing matrix [crops * S, S] of several crops of each image, the first of all images first.

    >>> crop_matrix(2, 2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    return torch.eye(sources, device=device).repeat(crops, 1)
