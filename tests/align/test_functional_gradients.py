"""Gradients of everything that is learned equal those of plain loops, number by number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss, TargetRule, TextQueue
from gpt4image.align.mixing import crop_matrix
from gpt4image.align.targets import Texts
from support.align_loops import LOOPS, Case, loss_targets
from support.tensors import draw_vectors

STEP = 1e-30
MIXING = torch.tensor([[0.9, 0, 0, 0.1], [0, 0.25, 0.75, 0], [0, 0, 0, 1.0], [0.4, 0, 0, 0.6]]).double()
BATCHES = {
    "plain": (None, (1,)),
    "mixed": (MIXING, (2,)),
    "all there": (MIXING, ()),
    "crops": (crop_matrix(2, 4).double(), (0,)),
    "fewer images than texts": (MIXING[:2], ()),
}


def make_case(targets, mixing, missing, queued):
    texts = draw_vectors(2, 4, 3)
    texts[3] = texts[0] / 2
    known = [at not in missing for at in range(4)]
    queue = [(row, 40 + at, at % 2) for at, row in enumerate(draw_vectors(3, 3, 3).tolist())] if queued else []
    if queued:
        queue[1] = (queue[1][0], 7, -1)
        queue.append((texts[3].tolist(), 50, 0))
    return Case(
        images=draw_vectors(1, 4 if mixing is None else len(mixing), 3).tolist(),
        texts=texts.tolist(),
        has_text=known,
        mixing=None if mixing is None else mixing.tolist(),
        ids=[7, 8, 7, 9],
        labels=[1, 0, -1, 1],
        queue=queue,
        targets=targets,
    )


def of_loops(name, case):
    """Gradients for images, texts, temperature and bias."""

    def slope(**changed):
        return LOOPS[name](dataclasses.replace(case, **changed)).imag / STEP

    def slopes(field):
        rows = getattr(case, field)
        found = torch.zeros(len(rows), len(rows[0]), dtype=torch.float64)
        for i, row in enumerate(rows):
            for k in range(len(row)):
                moved = [list(other) for other in rows]
                moved[i][k] += STEP * 1j
                found[i, k] = slope(**{field: moved})
        return found

    scalars = [slope(tau=case.tau + STEP * 1j), slope(bias=case.bias + STEP * 1j)]
    return [slopes("images"), slopes("texts"), *(torch.tensor(x, dtype=torch.float64) for x in scalars)]


def of_module(name, case):
    queue = None
    if case.queue:
        rows, ids, labels = zip(*case.queue, strict=True)
        queue = TextQueue(5, 3).double()
        unit = nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)
        queue.push(Texts(unit, torch.ones(len(ids), dtype=torch.bool), torch.tensor(ids), torch.tensor(labels)))
    rule = TargetRule(case.targets, case.tau_t, case.share)
    learned = name != "cosine"
    loss = AlignmentLoss(name, case.tau, targets=rule, bias=case.bias, queue=queue, learn_temperature=learned).double()
    if learned:
        nn.init.constant_(loss.log_scale, -torch.tensor(case.tau, dtype=torch.float64).log().item())
    images, texts = (torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in (case.images, case.texts))
    mixing = None if case.mixing is None else torch.tensor(case.mixing, dtype=torch.float64)
    known, ids, labels = (torch.tensor(part) for part in (case.has_text, case.ids, case.labels))
    value = loss(images, texts, known, mixing=mixing, ids=ids, labels=labels)
    value.backward()
    nothing = torch.tensor(0.0, dtype=torch.float64)
    of_tau = -loss.log_scale.grad / case.tau if learned else nothing
    of_bias = nothing if loss.bias is None else loss.bias.grad
    of_texts = torch.zeros_like(texts) if texts.grad is None else texts.grad
    return value.item(), [images.grad, of_texts, of_tau, of_bias]


@pytest.mark.parametrize(("name", "targets"), loss_targets(LOOPS))
def test_gradients_equal_plain_loops(name, targets):
    queues = (False, True) if name in ("clip", "infonce", "sigmoid") else (False,)
    for (mixing, missing), queued in ((batch, queued) for batch in BATCHES.values() for queued in queues):
        case = make_case(targets, mixing, missing, queued)
        value, gradients = of_module(name, case)
        assert value == pytest.approx(LOOPS[name](case).real, abs=1e-12)
        for found, expected in zip(gradients, of_loops(name, case), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-9)
