"""The queue of earlier texts: what it holds, in which order, and which images they match."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from gpt4image import AlignmentLoss, TextQueue
from gpt4image.align.targets import Texts
from gpt4image.core.errors import ConfigError


def batch(size, seed, known=None, **more):
    vectors = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))
    return Texts(
        nn.functional.normalize(vectors, dim=1),
        torch.ones(size, dtype=torch.bool) if known is None else torch.tensor(known, dtype=torch.bool),
        **more,
    )


def held(queue):
    """The ids, labels and vectors in it, oldest first."""
    order = [(int(queue.position) + at) % len(queue.known) for at in range(len(queue.known))]
    return [
        (int(queue.ids[at]), int(queue.labels[at]), queue.vectors[at].tolist()) for at in order if bool(queue.known[at])
    ]


def test_queue_holds_the_latest_texts():
    draw = random.Random(3)
    queue, kept, number = TextQueue(7, 3), [], 0
    for seed in range(40):
        size = draw.choice([0, 1, 2, 5, 7, 8, 20])
        known = [draw.random() < 0.7 for _ in range(size)]
        ids, labels = torch.arange(number, number + size), torch.arange(size) - 1
        texts = batch(size, seed, known, ids=ids, labels=labels)
        queue.push(texts)
        number += size
        kept += [(int(ids[at]), int(labels[at]), texts.vectors[at].tolist()) for at in range(size) if known[at]]
        kept = kept[-7:]
        assert held(queue) == kept
        assert int(queue.known.sum()) == len(kept)


def test_rows_without_text_are_not_queued():
    """The content does not depend on padding, nor on how many images have no text."""
    queue = TextQueue(3, 3)
    queue.push(batch(2, 0))
    queue.push(batch(50, 1, [False] * 50))
    assert queue.known.tolist() == [True, True, False]
    assert torch.equal(queue.vectors[:2], batch(2, 0).vectors)


def test_queued_texts_without_id_or_label_match_no_image():
    """Neither an image with id 0 nor one with the id that was there before."""
    queue = TextQueue(2, 3).double()
    queue.push(batch(2, 0, ids=torch.tensor([7, 8]), labels=torch.tensor([1, 1])))
    queue.push(batch(2, 1))
    loss = AlignmentLoss("infonce", targets="label", queue=queue).double().eval()
    z, text = (torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (2, 3))
    found = [
        loss(z, text, ids=torch.tensor(ids), labels=torch.tensor(labels)).item()
        for ids, labels in (([7, 8], [1, 2]), ([0, 70], [5, 6]), ([20, 30], [-1, -1]))
    ]
    assert found[0] == pytest.approx(found[1]) == pytest.approx(found[2])


def test_queued_text_with_the_same_label_is_a_positive():
    queue = TextQueue(4, 3)
    queue.push(batch(2, 0, ids=torch.tensor([1, 2]), labels=torch.tensor([5, -1])))
    loss = AlignmentLoss("infonce", 0.5, targets="label", queue=queue).eval()
    z, text = torch.eye(3)[:1], torch.eye(3)[1:2]
    logs = (z @ torch.cat([text, batch(2, 0).vectors]).T / 0.5).log_softmax(dim=1)[0]
    found = loss(z, text, ids=torch.tensor([9]), labels=torch.tensor([5]))
    assert found.item() == pytest.approx(-(logs[0] + logs[1]).item() / 2, rel=1e-5)
    alone = loss(z, text, ids=torch.tensor([9]), labels=torch.tensor([-1]))  # -1 is no label: it fits no other -1
    assert alone.item() == pytest.approx(-logs[0].item(), rel=1e-5)


def test_queue_is_part_of_a_checkpoint():
    first, second = (AlignmentLoss("clip", queue=TextQueue(4, 3)) for _ in range(2))
    first(torch.randn(3, 3), torch.randn(3, 3), ids=torch.arange(3))
    second.load_state_dict(first.state_dict())
    z, text = torch.randn(3, 3), torch.randn(3, 3)
    assert torch.equal(first.eval()(z, text), second.eval()(z, text))
    assert held(first.queue) == held(second.queue)


def test_invalid_sizes_and_losses_without_use_for_a_queue_are_rejected():
    with pytest.raises(ConfigError, match="at least one text, not 0"):
        TextQueue(0, 3)
    for loss in ("cosine", "relational"):
        with pytest.raises(ConfigError, match="of no use"):
            AlignmentLoss(loss, queue=TextQueue(3, 3))


def test_texts_that_were_read_survive_a_push():
    """A loss may read them in its backward pass."""
    queue = TextQueue(2, 3)
    queue.push(batch(2, 0, ids=torch.tensor([1, 2]), labels=torch.tensor([3, 4])))
    read = queue.texts(batch(1, 1, ids=torch.tensor([5]), labels=torch.tensor([5])))
    copies = [part.clone() for part in read]
    queue.push(batch(2, 2, [True, True], ids=torch.tensor([6, 7]), labels=torch.tensor([8, 9])))
    assert all(torch.equal(part, copy) for part, copy in zip(read, copies, strict=True))
    assert queue.texts(batch(1, 1)).ids is None and queue.texts(batch(1, 1)).labels is None
