"""The loss of class-anchored distillation, against plain loops, and what it is for."""

import cmath
import math

import pytest
import torch

from gpt4image import AlignmentLoss
from gpt4image.core.errors import ConfigError
from support.align_loops import dot, softmax, unit
from support.tensors import draw_vectors

ANCHORS = draw_vectors(3, 3)
TAU, STEP = 0.17, 1e-30
MIXING = torch.tensor([[0.7, 0, 0, 0.3], [0, 0.6, 0.4, 0], [0, 0.4, 0.6, 0], [0.3, 0, 0, 0.7]], dtype=torch.float64)
CROPS = torch.eye(4, dtype=torch.float64).repeat(2, 1)


def by_loops(images, vectors, mixing, known):
    """T^2 KL of the answers among the classes, and the smooth L1 of the distances from the other images."""
    sources = range(len(vectors))
    shares = [sum(row[s] for s in sources if known[s]) for row in mixing]
    units = [unit(vector) for vector in vectors]
    teacher = [
        unit([sum(row[s] * units[s][d] for s in sources if known[s]) for d in range(4)]) if share else [0.0] * 4
        for row, share in zip(mixing, shares, strict=True)
    ]
    student, anchors = [unit(image) for image in images], [unit(anchor) for anchor in ANCHORS.tolist()]
    total = 0.0
    for i, share in enumerate(shares):
        if not share:
            continue
        wanted, found = (softmax([dot(row, anchor) / TAU for anchor in anchors]) for row in (teacher[i], student[i]))
        divergence = sum(p * (cmath.log(p) - cmath.log(q)) for p, q in zip(wanted, found, strict=True))
        apart = []
        for j in range(len(images)):
            if j != i and shares[j]:
                differences = ([a - b for a, b in zip(rows[i], rows[j], strict=True)] for rows in (student, teacher))
                own, theirs = (cmath.sqrt(dot(each, each)) for each in differences)
                x = own - max(theirs.real, 0.001)  # two crops of one image are not quite one
                apart.append(x * x / 2 if abs(x.real) < 1 else (x if x.real > 0 else -x) - 0.5)
        total += share * ((TAU / 0.07) ** 2 * divergence + (sum(apart) / len(apart) if apart else 0))
    return total / sum(shares)


@pytest.mark.parametrize("mixing", [None, MIXING, CROPS])
@pytest.mark.parametrize("missing", [(), (1,), (0, 1, 3)])
def test_anchored_equals_loops_with_its_gradient(mixing, missing):
    rows = 4 if mixing is None else len(mixing)
    images, vectors = draw_vectors(1, rows).requires_grad_(), draw_vectors(2, 4)
    known = torch.tensor([at not in missing for at in range(4)])
    loss = AlignmentLoss("anchored", TAU, anchors=ANCHORS)
    found = loss(images, vectors, known, mixing=mixing)
    found.backward()
    numbers, shares = images.tolist(), (torch.eye(4) if mixing is None else mixing).tolist()
    expected = by_loops(numbers, vectors.tolist(), shares, known.tolist())
    assert found.item() == pytest.approx(expected.real, rel=1e-9)
    for i in range(rows):
        for d in range(4):
            moved = [list(row) for row in numbers]
            moved[i][d] = complex(moved[i][d], STEP)
            derivative = by_loops(moved, vectors.tolist(), shares, known.tolist()).imag / STEP
            assert images.grad[i, d].item() == pytest.approx(derivative, rel=1e-8, abs=1e-10)


def test_far_images_count_by_their_distance_alone():
    """Beyond 1 the smooth L1 function is linear: opposite images that the teacher takes for one."""
    images = torch.tensor([[1.0, 0, 0], [-1, 0, 0]], dtype=torch.float64)
    vectors = torch.tensor([[0.0, 0, 1], [0, 0, 1]], dtype=torch.float64)
    anchors = torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    assert AlignmentLoss("anchored", anchors=anchors)(images, vectors).item() == pytest.approx(2 - 0.001 - 0.5)


def test_vectors_of_the_teacher_cost_nothing_and_training_finds_its_answers():
    vectors = draw_vectors(2, 8)
    loss = AlignmentLoss("anchored", 0.2, anchors=ANCHORS)
    assert loss(3 * vectors, vectors).item() == pytest.approx(0, abs=1e-12)
    images = draw_vectors(1, 8).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(images, vectors).backward()
        optimizer.step()
    anchors = torch.nn.functional.normalize(ANCHORS)
    assert ((images @ anchors.T).argmax(dim=1) == (vectors @ anchors.T).argmax(dim=1)).all()
    assert loss(images, vectors).item() < 0.01 * math.log(3) * (0.2 / 0.07) ** 2


def test_anchors_are_required_where_they_are_used_and_nowhere_else():
    with pytest.raises(ConfigError, match="'anchored' compares with vectors of the classes: pass anchors"):
        AlignmentLoss("anchored")
    with pytest.raises(ConfigError, match="'clip' takes no anchors"):
        AlignmentLoss("clip", anchors=ANCHORS)
    assert not AlignmentLoss("anchored", anchors=ANCHORS).state_dict()
