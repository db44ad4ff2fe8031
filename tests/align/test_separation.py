"""What each loss teaches at its defaults: real texts, small batches, a projector on fixed features."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from gpt4image import AlignmentHead, AlignmentLoss, Projector, Targets, TextAdapter, TextQueue
from gpt4image.align.losses import LOSSES
from gpt4image.align.targets import RULES, Texts
from support import CLIPART12

IMAGES, BATCH, STEPS, FEATURES, QUEUED = 64, 16, 150, 128, 60
CONTRASTIVE = ("clip", "infonce", "sigmoid")


@pytest.fixture(scope="module")
def texts(minilm):
    """Vectors and labels of real descriptions: those of the images, then those of a queue."""
    table = pq.read_table(CLIPART12 / "train.parquet")
    table = table.take(np.random.default_rng(0).permutation(len(table))[: IMAGES + QUEUED])
    words = table["label"].to_pylist()
    vectors = torch.from_numpy(minilm.encode(table["description"].to_pylist()))
    return nn.functional.normalize(vectors.float(), dim=1), torch.tensor([words.index(word) for word in words])


def features(count=IMAGES):
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1)).relu()


def build_head(loss, adapter=False):
    torch.manual_seed(0)
    return AlignmentHead(Projector(FEATURES, 384), loss, adapter=TextAdapter(384) if adapter else None)


def as_targets(vectors, labels, rows):
    return Targets((vectors[rows],), (torch.ones(len(rows), dtype=torch.bool),), rows, labels[rows])


def learn(head, texts):
    """Train a head; return cosines of images with texts, of images, and of texts, each [N, N]."""
    inputs, order = features(), torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for _ in range(STEPS):
        rows = torch.randperm(IMAGES, generator=order)[:BATCH]
        optimizer.zero_grad()
        head.align(head(inputs[rows]), as_targets(*texts, rows)).backward()
        optimizer.step()
    with torch.no_grad():
        vectors = texts[0][:IMAGES]
        z = nn.functional.normalize(head.eval()(inputs), dim=1)
        t = nn.functional.normalize(vectors if head.adapter is None else head.adapter(vectors), dim=1)
    return z @ t.T, z @ z.T, t @ t.T


def apart(cosines):
    """Mean cosine with the own text less that with others."""
    others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return float(cosines.diagonal().mean() - others.mean())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "distance"), [("clip", 0.75), ("infonce", 0.75), ("sigmoid", 0.75), ("cosine", 0.65)])
def test_own_and_other_texts_move_apart(name, distance, texts):
    head = build_head(AlignmentLoss(name))
    cosines, _, among_texts = learn(head, texts)
    assert apart(cosines) > distance
    assert float((cosines.argmax(dim=1) == torch.arange(IMAGES)).float().mean()) > 0.95
    if name in CONTRASTIVE:  # an image is further from another's text than the texts are from each other
        assert apart(cosines) > apart(among_texts) + 0.05


def test_relational_loss_gives_images_the_similarities_of_their_texts(texts):
    _, among_images, among_texts = learn(build_head(AlignmentLoss("relational")), texts)
    pairs = torch.triu_indices(IMAGES, IMAGES, 1).unbind()
    before = nn.functional.normalize(build_head(AlignmentLoss()).eval()(features()).detach(), dim=1)
    found = [
        torch.corrcoef(torch.stack([c[pairs], among_texts[pairs]]))[0, 1] for c in (before @ before.T, among_images)
    ]
    assert abs(found[0]) < 0.2 and found[1] > 0.8


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_adapter_of_a_contrastive_loss_moves_texts_apart(name, texts):
    cosines, _, among_texts = learn(build_head(AlignmentLoss(name), adapter=True), texts)
    assert apart(among_texts) > apart(texts[0][:IMAGES] @ texts[0][:IMAGES].T)
    assert apart(cosines) > 0.75


def first_step(name, targets, size, texts, queued=0):
    """Return the mean norm of the gradient at an image's feature, and the loss, of the first batch."""
    vectors, labels = texts
    queue = None
    if queued:
        queue = TextQueue(queued, 384)
        others = torch.arange(IMAGES, IMAGES + queued)
        queue.push(Texts(vectors[others], torch.ones(queued, dtype=torch.bool), others, labels[others]))
    head = build_head(AlignmentLoss(name, targets=targets, queue=queue))
    inputs = features(size).requires_grad_()
    loss = head.align(head(inputs), as_targets(vectors, labels, torch.arange(size)))
    (gradient,) = torch.autograd.grad(loss, inputs)
    return size * float(gradient.norm(dim=1).mean()), loss.item()


@pytest.mark.parametrize("queued", [0, QUEUED])
@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("targets", RULES)
def test_first_gradient_of_sigmoid_is_that_of_infonce(targets, size, queued, texts):
    """So a weight means the same, whatever the targets, the batch and the queue."""
    norm, loss = first_step("sigmoid", targets, size, texts, queued)
    expected, _ = first_step("infonce", targets, size, texts, queued)
    assert norm == pytest.approx(expected, rel=0.15 if targets == "similarity" else 0.03)
    assert loss < 2 + torch.tensor(float(size + queued)).log()


@pytest.mark.parametrize(("name", "share"), [("clip", 1.0), ("cosine", 0.4), ("relational", 0.9)])
def test_first_gradient_of_the_other_losses_is_a_stated_share_of_it(name, share, texts):
    """docs/method.md, "Weight". That of `cosine` is 2 tau."""
    assert set(LOSSES.names()) >= {"clip", "cosine", "relational", *CONTRASTIVE}
    expected, _ = first_step("infonce", "same", 64, texts)
    assert first_step(name, "same", 64, texts)[0] == pytest.approx(share * expected, rel=0.2)
