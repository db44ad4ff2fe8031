"""Losses, targets and gradients at their numerical limits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from gpt4image import AlignmentHead, AlignmentLoss, TargetRule, Targets, TextAdapter
from gpt4image.align.losses import LOSSES
from gpt4image.align.taps import split_balanced
from gpt4image.align.targets import Texts
from support.tensors import draw_vectors, loss_inputs

NAN = float("nan")


vectors = partial(draw_vectors, size=5, dtype=torch.float32)


@pytest.mark.parametrize("unknown", [NAN, math.inf, 0.0, 1e38])
def test_adapter_learns_nothing_from_rows_without_text(unknown):
    found = []
    for filler in (unknown, 1.0):
        torch.manual_seed(0)
        adapter = TextAdapter(4)
        nn.init.normal_(adapter.up.weight)
        head = AlignmentHead(nn.Identity(), AlignmentLoss("clip"), adapter=adapter)
        text, known = vectors(1), torch.tensor([True, False, True, True, False])
        text[~known] = filler
        loss = head.align(vectors(2), Targets((text,), (known,)))
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in adapter.parameters())])
    for odd, plain in zip(*found, strict=True):
        torch.testing.assert_close(odd, plain)


def test_rows_without_text_get_no_gradient():
    text = vectors(1)
    text[2] = NAN
    text.requires_grad_()
    AlignmentLoss("clip")(vectors(2), text, torch.tensor([True, True, False, True, True])).backward()
    assert text.grad[2].abs().max() == 0
    assert text.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES.names() if LOSSES.load(name).has_temperature])
def test_learned_temperature_recovers_from_the_lower_bound(name):
    """All images point away from their texts, so the batch favours a higher temperature."""
    loss = AlignmentLoss(name, 0.02, learn_temperature=True)
    loss.log_scale.data.fill_(50.0)
    text = vectors(3)
    z = -text + 0.1 * vectors(4)
    loss(z.flip(0) if name == "relational" else z, text).backward()
    assert loss.temperature.item() == pytest.approx(0.01, rel=1e-5)
    assert loss.log_scale.grad.item() > 0
    torch.optim.SGD([loss.log_scale], lr=1e-3).step()
    assert loss.temperature.item() > 0.01


@pytest.mark.parametrize(("tau_t", "mixing"), [(0.1, None), (0.005, None), (0.1, torch.eye(5)), (0.02, torch.eye(5))])
def test_relational_targets_are_exact_at_low_temperatures(tau_t, mixing):
    """In float32 against float64 loops: no exponential of a cosine underflows."""
    text, z = nn.functional.normalize(vectors(5), dim=1), nn.functional.normalize(vectors(6), dim=1)
    found = AlignmentLoss("relational", 0.3, targets=TargetRule("same", tau_t))(z, text, mixing=mixing)
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        teacher = torch.tensor([float(text[i].double() @ text[j].double()) / tau_t for j in others]).double()
        student = torch.tensor([float(z[i].double() @ z[j].double()) / 0.3 for j in others]).double()
        for p, log_p, log_q in zip(teacher.softmax(0), teacher.log_softmax(0), student.log_softmax(0), strict=True):
            total += float(p * (log_p - log_q)) / 5
    assert found.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("mixing", [None, torch.eye(5)])
def test_single_and_identical_images_give_finite_losses_and_gradients(name, mixing):
    """One image; identical images and texts; a single text."""
    for size, known in ((1, [True]), (5, [True] * 5), (5, [False, False, True, False, False])):
        z = torch.ones(size, 4, requires_grad=True)
        loss = AlignmentLoss(name, 0.01, **loss_inputs(name, 4))
        value = loss(
            z, torch.ones(size, 4), torch.tensor(known), mixing=None if mixing is None else mixing[:size, :size]
        )
        value.backward()
        assert value.isfinite() and z.grad.isfinite().all()
        if name == "relational":
            assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES.names())
def test_zero_features_and_texts_give_finite_losses_and_gradients(name):
    z, text = vectors(1), vectors(2)
    z[0], text[1] = 0, 0
    z.requires_grad_()
    value = AlignmentLoss(name, **loss_inputs(name, 4))(z, text)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()


def test_rounded_text_is_the_same_and_a_similar_one_is_not():
    """Rounding to float16 leaves a text the same; a cosine of 0.9999 with another does not make it the same."""
    text = nn.functional.normalize(torch.randn(2, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    turned = nn.functional.normalize(text[0] + 0.015 * text[1], dim=0)
    assert 0.9998 < float(turned @ text[0]) < 0.99995
    others = nn.functional.normalize(torch.stack([text[0], text[0].half().float(), turned, text[1]]), dim=1)
    known = torch.ones(4, dtype=torch.bool)
    ((_, fits),) = TargetRule("same").terms(Texts(others[:1], known[:1]), Texts(others, known), 0)
    assert fits.tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_balanced_gradients_are_right_in_every_precision(dtype):
    """The scale itself is too large for half precision."""
    feature = torch.ones(4, 8, dtype=dtype, requires_grad=True)
    first, second = split_balanced(feature, torch.tensor(1.0))
    of_first, of_second = torch.full((4, 8), 8.0, dtype=dtype), torch.full((4, 8), 2.0**-14, dtype=dtype)
    (gradient,) = torch.autograd.grad((first, second), feature, (of_first, of_second))
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, torch.full((4, 8), 16.0, dtype=dtype))
