"""Size and speed of a trained model, as it is deployed: without heads and without cached features."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt4image.compare.records import ModelRecord
from gpt4image.train.processes import make_accelerator
from gpt4image.train.run import TrainedRun, load_backbone

SECONDS = 1.0  # spent on measuring the speed
BATCH_ON_CPU, BATCH_ON_GPU = 8, 64  # images at a time


@torch.no_grad()
def measure_model(run: TrainedRun) -> ModelRecord:
    """Count parameters and multiply-adds of a run's model, and measure its speed on this device, in float32."""
    device = make_accelerator(run.recipe).device
    model = load_backbone(run).to(device)
    batch = BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU
    images = torch.zeros(batch, *run.preprocessing["input_size"], device=device)
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    float(model(images).sum())  # the first batch takes longer on a GPU
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < SECONDS:
        float(model(images).sum())  # reading the number waits for the device
        done += batch
    return ModelRecord(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        batch=batch,
        images_per_second=done / (time.perf_counter() - started),
    )
