"""A training step compiles into one graph and never reads a value, which would wait for the device."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from gpt4image import (
    AlignedModel,
    AlignmentHead,
    AlignmentLoss,
    Moments,
    Projector,
    TargetRule,
    Targets,
    TextAdapter,
    TextQueue,
    TextTransform,
)
from gpt4image.align.losses import LOSSES
from support.align_loops import loss_targets
from support.tensors import Sizes, loss_inputs


def inputs():
    generator = torch.Generator().manual_seed(2)
    images, text = torch.randn(4, 3, 8, 8, generator=generator), torch.randn(4, 6, generator=generator)
    known = torch.tensor([True, True, False, True])
    mixing = torch.eye(4) * 0.7 + torch.eye(4).flip(0) * 0.3
    return images, Targets((text,), (known,), torch.tensor([5, 6, 7, 5]), torch.tensor([0, -1, 0, -1])), mixing


def make_model(loss, **more):
    """A small balanced network with a head at its end and one in its middle, and everything learned that can be."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    backbone = nn.Sequential(*layers)
    text = inputs()[1].vectors[0]
    heads = []
    for tap in (None, "0"):
        adapter = TextAdapter(6) if loss in ("clip", "infonce") else None
        queue = TextQueue(5, 6) if loss == "sigmoid" else None
        learned = LOSSES.load(loss).has_temperature
        align = AlignmentLoss(loss, learn_temperature=learned, queue=queue, **loss_inputs(loss, 6), **more)
        transform = TextTransform("whitened", Moments.of([text]))
        heads.append(
            AlignmentHead(Projector(5, 6, kind="mlp-ln"), align, tap=tap, adapter=adapter, transform=transform)
        )
    model = AlignedModel(backbone, heads, classifier=backbone[4], balance=True).train()
    model.set_share(0.5)
    return model


def step(model, called, mixed=True):
    images, targets, mixing = inputs()
    output = called(images, targets, mixing if mixed else None)
    (output.logits.square().mean() + output.alignment).backward()
    return [output.logits, output.alignment, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "mixed"), [("clip", False), *((loss, True) for loss in LOSSES.names())])
def test_step_compiles_without_graph_break(loss, mixed):
    torch.compiler.reset()
    targets = {"clip": "similarity", "infonce": "label", "sigmoid": "identity"}.get(loss, "same")
    plain, compiled = (make_model(loss, targets=targets) for _ in range(2))
    for _ in range(2):
        expected = step(plain, plain, mixed)
        found = step(compiled, torch.compile(compiled, backend="eager", fullgraph=True), mixed)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "sigmoid"])
def test_compiled_gradients_equal_eager_ones(loss):
    torch.compiler.reset()
    plain, compiled = (make_model(loss) for _ in range(2))
    expected = step(plain, plain)
    found = step(compiled, torch.compile(compiled, backend="aot_eager", fullgraph=True))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_timm_model_compiles_without_graph_break():
    torch.compiler.reset()
    model = AlignedModel(timm.create_model("test_resnet", num_classes=3), Projector(96, 6)).eval()
    images, targets, mixing = inputs()
    images = images.repeat(1, 1, 4, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, targets, mixing), model(images, targets, mixing))


@pytest.mark.parametrize(("loss", "targets"), loss_targets(LOSSES.names()))
def test_step_reads_no_value_from_the_device(loss, targets):
    model = make_model(loss, targets=TargetRule(targets))
    with Sizes() as seen:
        step(model, model)
        step(model, model)
    assert not seen.reads
    with Sizes() as seen:
        int(torch.ones(2).sum())
    assert seen.reads  # a read would have been seen
