"""Every loss with every kind of targets equals plain loops: mixing, missing texts, duplicates, queues."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss, TargetRule, TextQueue
from gpt4image.align.mixing import crop_matrix
from gpt4image.align.targets import Texts
from support.align_loops import LOOPS, Case, loss_targets
from support.tensors import draw_vectors

LOSSES = list(LOOPS)
TARGETS = ["identity", "same", "label", "similarity"]
IDS = [4, 9, 4, 7, 1, 2]
LABELS = [0, 1, 0, -1, 1, -1]


def texts():
    """Six texts, of which 1 and 5 are the same."""
    found = draw_vectors(2)
    found[5] = found[1] * 3
    return found


def pair_mixing(shares):
    """As mixup pairs a batch: image i holds a share of itself, and the rest of image n - 1 - i."""
    size = len(shares)
    mixing = torch.diag(torch.tensor(shares, dtype=torch.float64))
    for i, share in enumerate(shares):
        mixing[i, size - 1 - i] += 1 - share
    return mixing


MIXINGS = {
    "none": None,
    "mixup": pair_mixing([0.7] * 6),
    "elementwise": pair_mixing([0.9, 0.2, 0.5, 0.0, 1.0, 0.6]),
    "crops": crop_matrix(2, 6).double(),
}
MISSING = {"all there": (), "some missing": (0, 4), "one there": (0, 1, 2, 4, 5)}


def make_loss(name, case, queue=None):
    rule = TargetRule(case.targets, case.tau_t, case.share)
    return AlignmentLoss(name, case.tau, targets=rule, bias=case.bias, queue=queue).double()


def make_case(targets, mixing, missing, **more):
    rows = 6 if mixing is None else len(mixing)
    return Case(
        images=draw_vectors(1, rows).tolist(),
        texts=texts().tolist(),
        has_text=[at not in missing for at in range(6)],
        mixing=None if mixing is None else mixing.tolist(),
        ids=IDS,
        labels=LABELS,
        targets=targets,
        **more,
    )


def call(loss, case, images=None):
    def whole(values):
        return None if values is None else torch.tensor(values)

    return loss(
        torch.tensor(case.images, dtype=torch.float64) if images is None else images,
        torch.tensor(case.texts, dtype=torch.float64),
        torch.tensor(case.has_text),
        mixing=None if case.mixing is None else torch.tensor(case.mixing, dtype=torch.float64),
        ids=whole(case.ids),
        labels=whole(case.labels),
    )


@pytest.mark.parametrize(("name", "targets"), loss_targets(LOSSES))
def test_losses_equal_plain_loops(name, targets):
    for mixing, missing in itertools.product(MIXINGS.values(), MISSING.values()):
        case = make_case(targets, mixing, missing)
        assert call(make_loss(name, case), case).item() == pytest.approx(LOOPS[name](case), abs=1e-11), (
            mixing,
            missing,
        )


@pytest.mark.parametrize(("name", "targets"), loss_targets(LOSSES))
def test_gradients_equal_finite_differences(name, targets):
    case = make_case(targets, MIXINGS["mixup"], (3,))
    loss = make_loss(name, case)
    images = torch.tensor(case.images, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: call(loss, case, z), images)


QUEUED = [
    (draw_vectors(5)[at].tolist(), number, label) for at, (number, label) in enumerate([(50, 0), (9, 1), (51, 1)])
]


@pytest.mark.parametrize("name", ["clip", "infonce", "sigmoid"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("size", [5, 4, 3], ids=["partly filled", "full", "wrapped"])
def test_queued_texts_are_further_negatives(name, targets, size):
    """Image 9 is in the queue too, and text 3 once more."""
    mixing = MIXINGS["elementwise"]
    again = (texts()[3].tolist(), 52, -1)
    queued = [*QUEUED, again]
    queue = TextQueue(size, 4).double()
    for vector, number, label in queued:
        unit = nn.functional.normalize(torch.tensor([vector], dtype=torch.float64), dim=1)
        queue.push(Texts(unit, torch.tensor([True]), torch.tensor([number]), torch.tensor([label])))
    case = make_case(targets, mixing, (0,), queue=queued[-size:])
    loss = make_loss(name, case, queue).eval()
    assert call(loss, case).item() == pytest.approx(LOOPS[name](case), abs=1e-11)
    without = make_case(targets, mixing, (0,))
    assert abs(LOOPS[name](case) - LOOPS[name](without)) > 1e-3


def test_queue_fills_in_training_mode_only_and_before_the_backward_pass():
    queue = TextQueue(8, 4).double()
    loss = AlignmentLoss("infonce", queue=queue).double()
    z = draw_vectors(1).requires_grad_()
    loss(z, texts(), torch.tensor([True, False, True, True, True, True]), ids=torch.tensor(IDS)).backward()
    assert queue.known.tolist() == [True] * 5 + [False] * 3
    assert queue.ids.tolist()[:5] == [IDS[0], *IDS[2:]]
    torch.testing.assert_close(queue.vectors[0], nn.functional.normalize(texts()[0], dim=0))
    loss(z, texts()).backward()
    assert int(queue.position) == 3
    loss.eval()(z, texts())
    assert int(queue.position) == 3
    queue.push(Texts(draw_vectors(3, 20), torch.ones(20, dtype=torch.bool)))
    assert torch.equal(queue.vectors[(queue.position + torch.arange(8)) % 8], draw_vectors(3, 20)[-8:])


@pytest.mark.parametrize("name", LOSSES)
def test_rows_without_text_change_neither_loss_nor_gradients(name):
    loss = AlignmentLoss(name, 0.1).double()
    z = draw_vectors(13).requires_grad_()
    nothing = loss(z, torch.full((6, 4), float("nan")).double(), torch.zeros(6, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0 and z.grad.abs().max() == 0
    has_text = torch.tensor([True, True, False, True, False, True])
    text = texts()
    text[~has_text] = float("nan")
    z = draw_vectors(13).requires_grad_()
    some = loss(z, text, has_text)
    some.backward()
    few = loss(draw_vectors(13)[has_text], text[has_text])
    assert some.item() == pytest.approx(few.item(), abs=1e-12)
    assert z.grad[~has_text].abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_loss_ignores_the_order_and_an_identity_mixing(name):
    loss, order = AlignmentLoss(name, 0.2).double(), torch.randperm(6, generator=torch.Generator().manual_seed(1))
    plain = loss(draw_vectors(1), texts())
    assert loss(draw_vectors(1)[order], texts()[order]).item() == pytest.approx(plain.item(), abs=1e-12)
    assert loss(draw_vectors(1), texts(), mixing=torch.eye(6)).item() == pytest.approx(plain.item(), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_total_divides_the_sum(name):
    loss = AlignmentLoss(name, 0.2).double()
    plain = loss(draw_vectors(1), texts())
    assert loss(draw_vectors(1), texts(), total=12.0).item() == pytest.approx(plain.item() / 2, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cosine"])
def test_learned_temperature_starts_at_its_setting_and_gets_a_gradient(name):
    fixed, learned = AlignmentLoss(name, 0.2).double(), AlignmentLoss(name, 0.2, learn_temperature=True).double()
    found = learned(draw_vectors(1), texts())
    assert found.item() == pytest.approx(fixed(draw_vectors(1), texts()).item(), rel=1e-7)
    found.backward()
    step = 1e-4
    near = [AlignmentLoss(name, 0.2 * torch.tensor(x).exp().item()).double() for x in (-step, step)]
    below, above = (loss(draw_vectors(1), texts()).item() for loss in near)
    assert -learned.log_scale.grad.item() == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-5)
    learned.log_scale.data.fill_(100.0)
    learned(draw_vectors(1), texts())
    assert learned.temperature.item() == pytest.approx(0.01)


def test_sigmoid_equals_open_clip():
    from open_clip.loss import SigLipLoss

    z, t = (nn.functional.normalize(draw_vectors(seed), dim=1) for seed in (5, 6))
    loss = AlignmentLoss("sigmoid", 0.1).double()
    loss.bias.data.fill_(-3.0 + math.log(len(z) - 1))  # ours is learned from the log odds of one positive
    mine = loss(z, t)
    theirs = SigLipLoss()(z, t, torch.tensor(10.0).double(), torch.tensor(-3.0).double())
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-12)


def test_label_targets_equal_supervised_contrastive_loss():
    """Both average the log-likelihood over the positives of an anchor (Khosla et al., arXiv 2004.11362, equation 2)."""
    from pytorch_metric_learning.losses import SupConLoss

    z, t, labels = draw_vectors(7), draw_vectors(8), torch.tensor([0, 1, 0, 2, 1, 0])
    theirs = SupConLoss(temperature=0.3)(z, labels, ref_emb=t, ref_labels=labels.clone())
    mine = AlignmentLoss("infonce", 0.3, targets="label").double()(z, t, labels=labels)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-9)


SETS = [[1, 1, 0, 0], [0, 1, 1, -1], [1, 1, 0, 0], [-1, -1, -1, -1], [0, 0, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("mixing", ["none", "mixup"])
@pytest.mark.parametrize("name", ["clip", "infonce", "sigmoid"])
def test_targets_of_several_labels_are_their_overlap(name, mixing):
    case = replace(make_case("label", MIXINGS[mixing], (4,)), labels=SETS)
    loss, images = make_loss(name, case), torch.tensor(case.images, dtype=torch.float64, requires_grad=True)
    assert call(loss, case).item() == pytest.approx(LOOPS[name](case), abs=1e-6)  # overlaps are in float32
    assert torch.autograd.gradcheck(lambda z: call(loss, case, z), images)


def test_cosine_loss_of_several_crops_is_the_mean_over_them():
    loss = AlignmentLoss("cosine").double()
    both = loss(draw_vectors(1, 12), texts(), mixing=crop_matrix(2, 6))
    each = [loss(part, texts()).item() for part in draw_vectors(1, 12).split(6)]
    assert both.item() == pytest.approx(sum(each) / 2, abs=1e-12)
