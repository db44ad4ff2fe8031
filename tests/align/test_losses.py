"""Losses against plain loops written from the formulas, and against other libraries."""

import math

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss
from gpt4image.errors import ConfigError

TAU = 0.17


def vectors(seed: int, size: int = 7, width: int = 5) -> torch.Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_similarities(projected, text):
    """<z_i, t_j> of unit vectors, number by number."""

    def unit(row):
        length = sum(x * x for x in row) ** 0.5
        return [x / length for x in row]

    z, t = [unit(row) for row in projected], [unit(row) for row in text]
    return [[sum(a * b for a, b in zip(zi, tj, strict=True)) for tj in t] for zi in z]


def loop_infonce(s, rows):
    total = 0.0
    for i in rows:
        denominator = sum((s[i][j] / TAU).exp() if torch.is_tensor(s[i][j]) else math.exp(s[i][j] / TAU) for j in rows)
        log = denominator.log() if torch.is_tensor(denominator) else math.log(denominator)
        total = total - (s[i][i] / TAU - log)
    return total / len(rows)


def loop_loss(name, projected, text, rows):
    s = loop_similarities(projected, text)
    if name == "cosine":
        return sum(2 - 2 * s[i][i] for i in rows) / len(rows)
    forward = loop_infonce(s, rows)
    if name == "infonce":
        return forward
    transposed = [list(column) for column in zip(*s, strict=True)]
    return (forward + loop_infonce(transposed, rows)) / 2


@pytest.mark.parametrize("name", ["clip", "infonce", "cosine"])
@pytest.mark.parametrize("missing", [(), (0, 3), (6,), (0, 1, 2, 3, 4, 5)])
def test_value_and_gradient_equal_plain_loops(name, missing):
    projected, text = vectors(1).requires_grad_(), vectors(2)
    rows = [i for i in range(7) if i not in missing]
    has_text = torch.tensor([i not in missing for i in range(7)])

    loss = AlignmentLoss(name, TAU)(projected, text, has_text)
    expected = loop_loss(name, projected.tolist(), text.tolist(), rows)
    assert loss.item() == pytest.approx(expected, abs=1e-12)

    (gradient,) = torch.autograd.grad(loss, projected)
    scalars = [[value.detach().clone().requires_grad_() for value in row] for row in projected]
    loop_loss(name, scalars, text.tolist(), rows).backward()
    by_loop = torch.tensor([[0.0 if v.grad is None else v.grad.item() for v in row] for row in scalars]).double()
    torch.testing.assert_close(gradient, by_loop, atol=1e-6, rtol=1e-5)
    assert gradient[~has_text].abs().max() == 0 if missing else True


@pytest.mark.parametrize("name", ["clip", "infonce", "cosine"])
def test_gradcheck(name):
    loss = AlignmentLoss(name, TAU)
    has_text = torch.tensor([True, False, True, True, True, False, True])
    assert torch.autograd.gradcheck(lambda z: loss(z, vectors(4), has_text), vectors(3).requires_grad_())


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


@pytest.mark.parametrize("name", ["clip", "infonce", "cosine"])
def test_batch_without_any_text_costs_nothing(name):
    projected = vectors(13).requires_grad_()
    loss = AlignmentLoss(name, 1e-3)(projected, torch.zeros(7, 5).double(), torch.zeros(7, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert projected.grad.abs().max() == 0


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
