"""Losses against other libraries and the reference's formulas; precision and arguments."""

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss
from gpt4image.core.errors import ConfigError

TAU = 0.17


def vectors(seed: int, size: int = 7, width: int = 5) -> torch.Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_clip_equals_open_clip():
    from open_clip import ClipLoss

    z, t = (nn.functional.normalize(vectors(seed), dim=1) for seed in (5, 6))
    assert AlignmentLoss("clip", TAU)(z, t).item() == pytest.approx(ClipLoss()(z, t, 1 / TAU).item(), abs=1e-12)


def test_infonce_equals_pytorch_metric_learning():
    from pytorch_metric_learning.losses import NTXentLoss

    z, t, labels = vectors(7), vectors(8), torch.arange(7)
    theirs = NTXentLoss(temperature=TAU)(z, labels, ref_emb=t, ref_labels=labels.clone())
    assert AlignmentLoss("infonce", TAU)(z, t).item() == pytest.approx(theirs.item(), abs=1e-9)


def test_cosine_equals_lightly():
    from lightly.loss import NegativeCosineSimilarity

    z, t = vectors(9), vectors(10)
    assert AlignmentLoss("cosine")(z, t).item() == pytest.approx(2 + 2 * NegativeCosineSimilarity()(z, t).item())


def test_equals_the_reference_formulas():
    """The reference's three losses as its formulas state them: unit image vectors, texts already of unit length."""
    z, t = nn.functional.normalize(vectors(11), dim=1), nn.functional.normalize(vectors(12), dim=1)
    logits, diagonal = z @ t.T / TAU, torch.arange(7)
    cross_entropy = nn.functional.cross_entropy
    reference = {
        "clip": (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2,
        "infonce": cross_entropy(logits, diagonal),
        "cosine": (2 - 2 * (z * t).sum(dim=-1)).mean(),
    }
    for name, expected in reference.items():
        assert AlignmentLoss(name, TAU)(vectors(11), t).item() == pytest.approx(expected.item(), abs=1e-12), name


def test_half_precision_is_computed_in_float32():
    z, t = vectors(14).to(torch.bfloat16), vectors(15).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AlignmentLoss("clip", 0.01)(z, t)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(AlignmentLoss("clip", 0.01)(z.double(), t.double()).item(), rel=1e-5)


def test_arguments_are_checked():
    with pytest.raises(ConfigError, match="Did you mean 'clip'"):
        AlignmentLoss("clp")
    with pytest.raises(ConfigError, match="above 0"):
        AlignmentLoss("clip", temperature=0)
    with pytest.raises(ConfigError, match="out_features"):
        AlignmentLoss()(torch.zeros(4, 3), torch.zeros(4, 5))
    with pytest.raises(ConfigError, match="has_text"):
        AlignmentLoss()(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(3, dtype=torch.bool))
