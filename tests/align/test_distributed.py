"""The gradients of a batch spread over processes equal those of the whole batch on a single process."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gpt4image import AlignmentHead, AlignmentLoss, TargetRule, Targets, TextAdapter, TextQueue
from gpt4image.align.losses import LOSSES
from gpt4image.align.taps import split_balanced
from gpt4image.core.errors import ConfigError
from support.align_loops import loss_targets
from support.tensors import Sizes, loss_inputs

WIDTH = 6
SHARES = {
    1: [(12,), (7,), (12,)],
    2: [(6, 6), (6, 1), (6, 6)],
    4: [(3, 3, 3, 3), (3, 1, 2, 1), (3, 3, 3, 3)],
}
"""Images of each process: in a first step, in an uneven last one of an epoch, and in one more."""
CASES = [
    *((loss, targets, mixed, "plain") for loss, targets in loss_targets(LOSSES.names()) for mixed in (False, True)),
    *((loss, "same", False, "learned") for loss in LOSSES.names() if LOSSES.load(loss).has_temperature),
    *((loss, targets, True, "queue") for loss in ("clip", "infonce", "sigmoid") for targets in ("identity", "label")),
    *((loss, "same", True, "balance") for loss in LOSSES.names()),
]


# `fully_shard` refuses the scalars that these train: a temperature, and the bias of the sigmoid loss.
DIVISIBLE = [case for case in CASES if case[0] != "sigmoid" and case[3] != "learned"]


def steps(case):
    """A queue of nine is full after the first step and wraps around in the third."""
    return range(3 if case[3] == "queue" else 2)


def data(step):
    """One step's batch: inputs, texts, which are known (none of the last process), ids and labels."""
    size = sum(SHARES[1][step])
    generator = torch.Generator().manual_seed(step)
    inputs, text = (torch.randn(size, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    text[size - 2] = text[0]
    has_text = torch.ones(size, dtype=torch.bool)
    has_text[[2, *range(9, size)]] = False
    return inputs, text, has_text, torch.arange(size) % 5, torch.arange(size) % 3 - 1


def blocks(step):
    """Cuts of one step's images into the smallest portions that any number of processes divides them into."""
    cuts = {0}
    for shares in SHARES.values():
        cuts |= {sum(shares[step][:at]) for at in range(1, len(shares[step]) + 1)}
    return sorted(cuts)


def mixing_of(step, rows):
    """Mixing within those portions, so it does not depend on the number of processes."""
    size = sum(SHARES[1][step])
    whole, cuts = torch.zeros(size, size, dtype=torch.float64), blocks(step)
    for start, end in itertools.pairwise(cuts):
        for at in range(start, end):
            whole[at, at] += 0.7
            whole[at, start + end - 1 - at] += 0.3
    return whole[rows, rows]


class Model(nn.Module):
    """A backbone and a classifier of one layer each, and a head."""

    def __init__(self, case) -> None:
        super().__init__()
        loss, targets, self.mixed, extra = case
        torch.manual_seed(1)
        queue = TextQueue(9, WIDTH) if extra == "queue" else None
        align = AlignmentLoss(
            loss,
            0.3,
            targets=TargetRule(targets, 0.4),
            learn_temperature=extra == "learned",
            queue=queue,
            bias=-1.0,
            **loss_inputs(loss, WIDTH),
        )
        self.backbone, self.classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        adapter = TextAdapter(WIDTH) if extra == "learned" and loss != "relational" else None
        self.head = AlignmentHead(nn.Linear(WIDTH, WIDTH), align, adapter=adapter)
        if adapter is not None:
            nn.init.normal_(adapter.up.weight)
        self.balance = extra == "balance"

    def forward(self, inputs, targets, mixing):
        features = self.backbone(inputs)
        other = features
        if self.balance:
            features, other = split_balanced(features, torch.tensor(0.3, dtype=torch.float64))
        return self.classifier(features), self.head.align(self.head(other), targets, mixing)


def gradients(model, case, step, rows, processes):
    inputs, text, has_text, ids, labels = (part[rows] for part in data(step))
    mixing = mixing_of(step, rows) if case[2] else None
    model.zero_grad()
    answers, loss = model(inputs, Targets((text,), (has_text,), ids, labels), mixing)
    classification = answers.square().sum() * processes / sum(SHARES[1][step])
    (loss + classification if case[3] == "balance" else loss + 0 * classification).backward()
    return loss.detach(), torch.cat([whole(parameter.grad).flatten() for parameter in model.parameters()])


def whole(gradient):
    """A gradient of which each process may have a part."""
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def divide(model):
    """Divide the weights of a model among the processes (FSDP); they are put together when a module needs them."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (model.backbone, model.classifier, model):
        fully_shard(module, mesh=mesh)
    return model


def run_cases(rank, processes, wrap, cases=CASES):
    """Losses and gradients of each case and step, and the content of the queues at the end."""
    found, queues = [], []
    for case in cases:
        plain = Model(case).double()
        model = wrap(plain)
        for step in steps(case):
            shares = SHARES[processes][step]
            start = sum(shares[:rank])
            found.append(gradients(model, case, step, slice(start, start + shares[rank]), processes))
        if case[3] == "queue":
            queues.append(dict(plain.head.loss.queue.named_buffers()))
    return found, queues


def largest_tensors(rank):
    """For each loss the size of the largest tensor of a later step, and the values that were read."""
    sizes = {}
    for name, targets in dict(loss_targets(LOSSES.names())).items():  # the last, which take the most
        queue = TextQueue(64, 8) if name in ("clip", "sigmoid") else None
        loss = AlignmentLoss(name, targets=targets, queue=queue, **loss_inputs(name, 8))
        text = torch.randn(64, 8, requires_grad=name == "infonce")
        for _ in range(2):
            with Sizes() as seen:
                z = torch.randn(64, 8, requires_grad=True)
                loss(z, text, torch.arange(64) > 60 * rank, mixing=torch.eye(64)).backward()
        sizes[name] = (seen.largest, seen.reads)
    return sizes


def refusal():
    """The message when a later batch is larger than the first."""
    loss = AlignmentLoss("cosine")
    loss(torch.randn(3, 4), torch.randn(3, 4))
    try:
        loss(torch.randn(4, 4), torch.randn(4, 4))
    except ConfigError as error:
        return str(error)
    return ""


def of_growing_batches(rank, processes, slots):
    """The loss where the first batch already is uneven: one row on the first process, two on the next, and so on."""
    rows = torch.arange(rank + 1) + rank * (rank + 1) // 2
    generator = torch.Generator().manual_seed(7)
    z, text = (torch.randn(10, 4, generator=generator, dtype=torch.float64)[rows] for _ in range(2))
    found = AlignmentLoss("clip", slots=slots).double()(z, text)
    dist.all_reduce(found)
    return found / processes


def worker(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes)
    found, queues = run_cases(rank, processes, DistributedDataParallel)
    losses = torch.stack([loss for loss, _ in found])
    dist.all_reduce(losses)
    gradients = [gradient for _, gradient in found]
    others = None
    if processes > 1:
        growing = [of_growing_batches(rank, processes, slots) for slots in (None, 7)]
        others = largest_tensors(rank), refusal(), growing
    torch.save((losses / processes, gradients, queues, others), folder / f"{rank}.pt")
    if processes == 2:
        torch.save(run_cases(rank, processes, divide, DIVISIBLE)[0], folder / f"divided-{rank}.pt")
    dist.destroy_process_group()


def contents(queue):
    """The texts of a queue as a set."""
    known = queue["known"]
    return sorted(
        (int(number), int(label), *(round(x, 9) for x in vector))
        for number, label, vector in zip(
            queue["ids"][known], queue["labels"][known], queue["vectors"][known].tolist(), strict=True
        )
    )


@pytest.fixture(scope="module")
def alone():
    return run_cases(0, 1, lambda model: model)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_gradients_do_not_depend_on_the_number_of_processes(processes, alone, tmp_path):
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed", "gpt4image.align.head", "pytest"])
    mp.start_processes(worker, (processes, tmp_path), nprocs=processes, start_method="forkserver")
    expected, kept = alone
    for rank in range(processes):
        losses, found, queues, others = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        names = [(*case, step) for case in CASES for step in steps(case)]
        for case, (loss, gradient), got, mean in zip(names, expected, found, losses, strict=True):
            assert gradient.abs().max() > 1e-4, case
            torch.testing.assert_close(got, gradient, atol=1e-8, rtol=0, msg=lambda m, case=case: f"{case}: {m}")
            assert mean.item() == pytest.approx(loss.item(), abs=1e-8), case
        assert [contents(queue) for queue in queues] == [contents(queue) for queue in kept]
        assert all(len(contents(queue)) == 9 for queue in kept)
        if others is not None:
            check_others(processes, *others)
    if processes == 2:
        check_divided(dict(zip(names, (gradient for _, gradient in expected), strict=True)), tmp_path)


def check_divided(expected, folder):
    names = [(*case, step) for case in DIVISIBLE for step in steps(case)]
    for rank in range(2):
        for name, (_, got) in zip(names, torch.load(folder / f"divided-{rank}.pt", weights_only=True), strict=True):
            torch.testing.assert_close(got, expected[name], atol=1e-8, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def check_others(processes, sizes, refused, growing):
    everyone = 64 * processes
    for name, (largest, reads) in sizes.items():
        assert largest <= 64 * (everyone + 64) < everyone**2, name
        assert not reads, name
    assert refused.startswith("A process has a batch of 4 rows, but at most 3") and "slots=N" in refused
    rows, generator = processes * (processes + 1) // 2, torch.Generator().manual_seed(7)
    z, text = (torch.randn(10, 4, generator=generator, dtype=torch.float64)[:rows] for _ in range(2))
    for found in growing:
        assert found.item() == pytest.approx(AlignmentLoss("clip").double()(z, text).item(), abs=1e-12)
