"""The loss of plain dot products, against plain loops in float64."""

import math

import pytest
import torch

from gpt4image import AlignmentLoss
from support.tensors import draw_vectors

MIXING = torch.tensor([[0.7, 0, 0, 0.3], [0, 0.6, 0.4, 0], [0, 0.4, 0.6, 0], [0.3, 0, 0, 0.7]], dtype=torch.float64)


def by_loops(images, texts, mixing, known):
    """Mixed texts, dot products of any length, cross-entropies of both directions weighted by the share with a text."""
    size, width = len(images), len(texts[0])
    shares = [sum(row[s] for s in range(len(texts)) if known[s]) for row in mixing]
    mixed = [
        [sum(row[s] * texts[s][d] for s in range(len(texts)) if known[s]) / share for d in range(width)]
        for row, share in zip(mixing, shares, strict=True)
    ]
    products = [[sum(a * b for a, b in zip(z, t, strict=True)) for t in mixed] for z in images]
    total = 0.0
    for i in range(size):
        across = math.log(sum(math.exp(products[i][j]) for j in range(size)))
        down = math.log(sum(math.exp(products[j][i]) for j in range(size)))
        total += shares[i] * (across + down - 2 * products[i][i]) / 2
    return total / sum(shares)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_dot_equals_loops(mixed, missing):
    images, texts = draw_vectors(1, 4), draw_vectors(2, 4)
    known = torch.tensor([True, not (missing and mixed), True, True])
    mixing = MIXING if mixed else torch.eye(4, dtype=torch.float64)
    loss = AlignmentLoss("dot", targets="identity").double()
    found = loss(images, texts, known, mixing=MIXING if mixed else None)
    expected = by_loops(images.tolist(), texts.tolist(), mixing.tolist(), known.tolist())
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_length_counts_in_dot_and_in_no_other_loss():
    images, texts = draw_vectors(1, 4), draw_vectors(2, 4)
    for name, same in (("dot", False), ("clip", True)):
        loss = AlignmentLoss(name).double()
        assert (loss(images, texts).item() == pytest.approx(loss(2 * images, texts).item(), abs=1e-9)) == same
