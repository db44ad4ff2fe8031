"""Losses equal other libraries and the formulas of the reference; precision and arguments."""

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss
from gpt4image.core.errors import ConfigError
from support.tensors import draw_vectors

TAU = 0.17


def test_clip_equals_open_clip():
    from open_clip import ClipLoss

    z, t = (nn.functional.normalize(draw_vectors(seed), dim=1) for seed in (5, 6))
    assert AlignmentLoss("clip", TAU)(z, t).item() == pytest.approx(ClipLoss()(z, t, 1 / TAU).item(), abs=1e-12)


def test_infonce_equals_pytorch_metric_learning():
    from pytorch_metric_learning.losses import NTXentLoss

    z, t, labels = draw_vectors(7), draw_vectors(8), torch.arange(6)
    theirs = NTXentLoss(temperature=TAU)(z, labels, ref_emb=t, ref_labels=labels.clone())
    assert AlignmentLoss("infonce", TAU)(z, t).item() == pytest.approx(theirs.item(), abs=1e-9)


def test_cosine_equals_lightly():
    from lightly.loss import NegativeCosineSimilarity

    z, t = draw_vectors(9), draw_vectors(10)
    assert AlignmentLoss("cosine")(z, t).item() == pytest.approx(2 + 2 * NegativeCosineSimilarity()(z, t).item())


def test_losses_equal_the_formulas_of_the_reference():
    """The reference's three losses as its formulas state them: unit image vectors, texts already of unit length."""
    z, t = nn.functional.normalize(draw_vectors(11), dim=1), nn.functional.normalize(draw_vectors(12), dim=1)
    logits, diagonal = z @ t.T / TAU, torch.arange(6)
    cross_entropy = nn.functional.cross_entropy
    reference = {
        "clip": (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2,
        "infonce": cross_entropy(logits, diagonal),
        "cosine": (2 - 2 * (z * t).sum(dim=-1)).mean(),
    }
    for name, expected in reference.items():
        assert AlignmentLoss(name, TAU)(draw_vectors(11), t).item() == pytest.approx(expected.item(), abs=1e-12), name


def test_half_precision_inputs_are_computed_in_float32():
    z, t = draw_vectors(14).to(torch.bfloat16), draw_vectors(15).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = AlignmentLoss("clip", 0.01)(z, t)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(AlignmentLoss("clip", 0.01)(z.double(), t.double()).item(), rel=1e-5)


def test_invalid_arguments_are_rejected():
    with pytest.raises(ConfigError, match="Did you mean 'clip'"):
        AlignmentLoss("clp")
    with pytest.raises(ConfigError, match="above 0"):
        AlignmentLoss("clip", temperature=0)
    with pytest.raises(ConfigError, match="out_features"):
        AlignmentLoss()(torch.zeros(4, 3), torch.zeros(4, 5))
    with pytest.raises(ConfigError, match="has_text"):
        AlignmentLoss()(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(3, dtype=torch.bool))
