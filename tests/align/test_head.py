"""A head passes to its loss the vectors of its source, transformed and adapted, with ids, labels and mixing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpt4image import AlignedModel, AlignmentHead, AlignmentLoss, Moments, Targets, TextAdapter, TextTransform
from support.tensors import draw_vectors


def features(seed, width=4):
    return 5 * draw_vectors(seed, 6, width, torch.float32)


def targets(**more):
    known = torch.ones(6, dtype=torch.bool)
    few = torch.tensor([True, False, True, True, True, False])
    return Targets((features(1, 3), features(2)), (known, few), **more)


def make_head(loss, **more):
    torch.manual_seed(0)
    unit = nn.functional.normalize(features(2), dim=1)
    adapter = TextAdapter(4)
    nn.init.normal_(adapter.up.weight)
    transform = TextTransform("whitened", Moments.of([unit]))
    return AlignmentHead(nn.Linear(3, 4), loss, source=1, transform=transform, adapter=adapter, **more)


def test_vectors_are_normalised_before_transform_and_adapter():
    head, wanted = make_head(AlignmentLoss("clip")), targets()
    unit = nn.functional.normalize
    text = head.adapter(unit(head.transform(unit(features(2), dim=1)), dim=1))
    z = head(features(3, 3))
    found = head.align(z, wanted)
    torch.testing.assert_close(found, AlignmentLoss("clip")(z, text, wanted.known[1]))
    scaled = wanted._replace(vectors=(features(1, 3), features(2) * torch.arange(1, 7)[:, None]))
    torch.testing.assert_close(found, head.align(z, scaled))


def test_ids_labels_mixing_and_totals_reach_the_loss():
    head, z = make_head(AlignmentLoss("infonce", targets="label")), features(4)
    text = head.adapter(nn.functional.normalize(head.transform(nn.functional.normalize(features(2), dim=1)), dim=1))
    ids, labels = torch.tensor([1, 2, 1, 3, 4, 5]), torch.tensor([-1, -1, -1, 1, 1, 0])
    mixing = torch.eye(6) * 0.75 + torch.eye(6).flip(0) * 0.25
    plain = head.align(z, targets(labels=labels), mixing)
    found = head.align(z, targets(ids=ids, labels=labels), mixing)
    of_loss = head.loss(z, text, targets().known[1], ids=ids, labels=labels, mixing=mixing)
    torch.testing.assert_close(found, of_loss)
    assert abs(found.item() - plain.item()) > 1e-4
    divided = head.align(z, targets(ids=ids, labels=labels, totals=(torch.tensor(1.0), torch.tensor(8.0))), mixing)
    assert divided.item() == pytest.approx(found.item() / 2, rel=1e-5)


def test_model_passes_the_mixing_to_its_heads():
    head = AlignmentHead(nn.Linear(3, 4), source=1, weight=3)
    backbone = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model, images = AlignedModel(backbone, head, classifier=backbone[1]), features(5, 2)
    mixing = torch.eye(6) * 0.75 + torch.eye(6).flip(0) * 0.25
    output = model(images, targets(), mixing)
    torch.testing.assert_close(output.alignment, 3 * head.align(head(output.features), targets(), mixing))
    assert abs(output.alignment.item() - model(images, targets()).alignment.item()) > 1e-4
