"""Sums of losses: all steps count, whenever they are looked at."""

from __future__ import annotations

import pytest
import torch

from gpt4image.core.errors import TrainingError
from gpt4image.train.loop import LossWatch

LOSSES = torch.rand(10, 2, generator=torch.Generator().manual_seed(5))


def sums(interval: int, looks: tuple[int, ...] = (), processes: int = 1) -> tuple[float, float]:
    """Watch ten steps, of which every process has the same; look also after some of them."""
    watch = LossWatch(interval, lambda rows: [str(row) for row in rows], lambda own: own.repeat(processes, 1, 1))
    for step, losses in enumerate(LOSSES):
        watch.record(0, step, torch.tensor([step]), losses)
        if step in looks:
            watch.look()
            assert watch.looked
    watch.look()
    return watch.classification_sum, watch.alignment_sum


@pytest.mark.parametrize("processes", [1, 3])
def test_every_step_counts_once(processes):
    expected = [sum(float(losses[kind]) for losses in LOSSES) for kind in (0, 1)]
    assert sums(4, processes=processes) == pytest.approx(expected, rel=1e-6)


def test_the_sum_does_not_depend_on_when_it_is_looked_at():
    assert len({sums(interval, looks) for interval, looks in ((1, ()), (3, ()), (100, ()), (4, (0, 1, 6)))}) == 1


def test_a_loss_that_is_no_number_names_its_images():
    watch = LossWatch(2, lambda rows: [f"image {row}" for row in rows], lambda own: own)
    watch.record(1, 7, torch.tensor([3, 4]), torch.tensor([1.0, float("nan")]))
    with pytest.raises(TrainingError, match=r"epoch 1, step 7.*image 3, image 4"):
        watch.look()
