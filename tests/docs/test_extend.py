"""The losses that the extension guide shows work as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from gpt4image import AlignmentLoss

GUIDE = Path(__file__).parents[2] / "docs" / "extend.md"


def guide_loss(name):
    blocks = re.findall(r"```text\n(.*?)```", GUIDE.read_text(), flags=re.S)
    (block,) = (block for block in blocks if f"def {name}" in block)
    scope = {}
    exec(block, scope)
    return scope[name]


def unit(seed):
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


def test_the_barest_loss():
    z, t = unit(1), unit(2)
    has_text = torch.tensor([True, True, False, True, True, True])
    found = AlignmentLoss(guide_loss("hinge_loss"), 0.2)(z, t, has_text)
    expected = sum(max(0.0, 0.8 - float(z[i] @ t[i])) ** 2 for i in range(6) if has_text[i]) / 5
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_that_compares():
    z, t = unit(3), unit(4)
    t[5] = t[0]
    has_text = torch.tensor([True, True, False, True, True, True])
    loss = AlignmentLoss(guide_loss("margin_loss"), 0.3, targets="same")
    rows = [i for i in range(6) if has_text[i]]
    expected = 0.0
    for i in rows:
        for j in rows:
            if i != j and {i, j} != {0, 5}:
                expected += max(0.0, 0.3 + float(z[i] @ t[j]) - float(z[i] @ t[i]))
    assert loss(z, t, has_text).item() == pytest.approx(expected / 5, abs=1e-12)
