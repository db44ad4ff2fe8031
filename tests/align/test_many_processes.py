"""The gradient of a batch spread over processes is that of the whole batch on one, for all that is learned."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from gpt4image import AlignmentHead, AlignmentLoss, TargetRule, Targets, TextAdapter, TextQueue
from gpt4image.align.balance import split_balanced
from gpt4image.align.losses import LOSSES

WIDTH = 6
SHARES = {1: [(12,), (7,)], 2: [(6, 6), (6, 1)], 4: [(3, 3, 3, 3), (3, 1, 2, 1)]}
"""Images of each process, in a first step and in an uneven last one: of 12, and of 7."""
STEPS = len(SHARES[1])
TARGETS = ("identity", "same", "label", "similarity")
CASES = [
    *((loss, targets, mixed, "plain") for loss, targets, mixed in itertools.product(LOSSES, TARGETS, (False, True))),
    *((loss, "same", False, "learned") for loss in LOSSES if loss != "cosine"),
    *((loss, targets, True, "queue") for loss in ("clip", "infonce", "sigmoid") for targets in ("identity", "label")),
    ("clip", "same", True, "balance"),
]


def data(step):
    """One step's batch: inputs, texts, which are there (none of the last process's), ids and labels."""
    size = sum(SHARES[1][step])
    generator = torch.Generator().manual_seed(step)
    inputs, text = (torch.randn(size, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    text[size - 2] = text[0]
    has_text = torch.ones(size, dtype=torch.bool)
    has_text[[2, *range(9, size)]] = False
    return inputs, text, has_text, torch.arange(size) % 5, torch.arange(size) % 3 - 1


def blocks(step):
    """The images of one step in the smallest portions that any number of processes divides them into."""
    cuts = {0}
    for shares in SHARES.values():
        cuts |= {sum(shares[step][:at]) for at in range(1, len(shares[step]) + 1)}
    return sorted(cuts)


def mixing_of(step, rows):
    """Mixing within those portions, so that it is the same however the batch is shared out."""
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
            loss, 0.3, targets=TargetRule(targets, 0.4), learn_temperature=extra == "learned", queue=queue, bias=-1.0
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
    answers, loss = model(inputs, Targets((text,), (has_text,), ids, labels), mixing)
    classification = answers.square().sum() * processes / sum(SHARES[1][step])
    model.zero_grad()
    (loss + classification if case[3] == "balance" else loss + 0 * classification).backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def run_cases(rank, processes, wrap):
    found = []
    for case in CASES:
        model = wrap(Model(case).double())
        for step in range(STEPS):
            shares = SHARES[processes][step]
            start = sum(shares[:rank])
            found.append(gradients(model, case, step, slice(start, start + shares[rank]), processes))
    return found


class Sizes(TorchDispatchMode):
    """Notes the most numbers that any tensor holds, and reads of values, which wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.reads = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.numel())
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            self.reads.append(str(function))
        return result


def worker(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes)
    found = run_cases(rank, processes, lambda model: DistributedDataParallel(model, find_unused_parameters=False))
    losses = torch.stack([loss for loss, _ in found])
    dist.all_reduce(losses)
    queue = TextQueue(64, 8)
    sizes = {}
    for name in LOSSES:
        loss = AlignmentLoss(name, queue=queue if name in ("clip", "sigmoid") else None)
        for _ in range(2):
            with Sizes() as seen:
                loss(torch.randn(64, 8, requires_grad=True), torch.randn(64, 8), mixing=torch.eye(64)).backward()
        sizes[name] = (seen.largest, seen.reads)
    torch.save((losses / processes, [gradient for _, gradient in found], sizes), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 4])
def test_gradients_do_not_depend_on_the_number_of_processes(processes, tmp_path):
    mp.spawn(worker, (processes, tmp_path), nprocs=processes)
    expected = run_cases(0, 1, lambda model: model)
    for rank in range(processes):
        losses, found, sizes = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for number, ((loss, gradient), got, mean) in enumerate(zip(expected, found, losses, strict=True)):
            case = (*CASES[number // STEPS], number % STEPS)
            assert gradient.abs().max() > 1e-4, case
            torch.testing.assert_close(got, gradient, atol=1e-8, rtol=0, msg=lambda m, case=case: f"{case}: {m}")
            assert mean.item() == pytest.approx(loss.item(), abs=1e-8), case
        everyone = 64 * processes
        for name, (largest, reads) in sizes.items():
            assert largest <= 64 * (everyone + 64) < everyone**2, name
            assert not reads, name


@pytest.mark.parametrize("name", LOSSES)
def test_no_value_is_read_in_a_step_of_one_process(name):
    loss = AlignmentLoss(name, targets="label", queue=TextQueue(16, 8) if name in ("clip", "infonce") else None)
    z = torch.randn(8, 8, requires_grad=True)
    arguments = {"ids": torch.arange(8), "labels": torch.arange(8) % 3 - 1, "mixing": torch.eye(8)}
    with Sizes() as seen:
        loss(z, torch.randn(8, 8), torch.rand(8) > 0.3, **arguments).backward()
    assert not seen.reads


def too_many(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    loss = AlignmentLoss("cosine")
    loss(torch.randn(3, 4), torch.randn(3, 4))
    try:
        loss(torch.randn(4, 4), torch.randn(4, 4))
    except Exception as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def test_a_larger_batch_than_the_first_says_what_to_do(tmp_path):
    mp.spawn(too_many, (tmp_path,), nprocs=2)
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith("ConfigError: A process brought a batch of 4 rows where 3") and "slots=N" in message
