"""Devices and processes: one CPU, one GPU, or several under `accelerate launch` or `torchrun`."""

from __future__ import annotations

import copy
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from gpt4image.core.errors import ConfigError
from gpt4image.core.format import counted
from gpt4image.images.scan import available_processors
from gpt4image.train.backbone import VIDEO
from gpt4image.train.data import Batch, LabelledInputs, ShareInOrder, make_loader
from gpt4image.train.recipe import Recipe
from gpt4image.train.transforms import Normalization

PATIENCE = timedelta(days=2)  # how long processes wait for the first one, which scans and embeds by itself
EVALUATION_BATCH = 64
TOLERANCE = 1e-3  # largest difference between two ways to compute an output, in units of its spread
MOST_WORKERS = 16  # each holds two batches
THREAD_WORK = 4e6  # floating-point operations of an operator for which another thread is worthwhile


def on_this_machine(recipe: Recipe) -> Recipe:
    """Return the recipe with the precision that `auto` stands for here."""
    if recipe.precision != "auto":
        return recipe
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return replace(recipe, precision="bf16" if gpu else "no")


def loader_workers(asked: int | None) -> int:
    """Return how many processes load images: as many as asked, else the processors there are for each GPU.

    On a CPU the default is none: the step itself needs all processors.
    """
    if asked is not None or not torch.cuda.is_available():
        return asked or 0
    return min(MOST_WORKERS, available_processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def worthwhile_threads(model: nn.Module, sample: Tensor, batch: int) -> int:
    """Return how many of the current threads a training step can use, from its amount of work rather than a clock.

    Threads meet after every operator. Where these are small, as in a MobileNet at 64 pixels, a step takes about as long
    with one thread as with two, and beside another busy process half as long (`benchmarks/waiting.py`).

    Args:
        model: the trained part of the model, on the CPU.
        sample: one of its inputs [1, ...].
        batch: images of a step.
    """
    available, training = torch.get_num_threads(), model.training
    work, operators = FlopCounterMode(display=False), _OperatorCount()  # type: ignore[no-untyped-call]
    with work, operators:
        model.eval()(sample)
    model.train(training)
    each = work.get_total_flops() * batch / max(1, operators.count)
    return max(1, min(available, int(each / THREAD_WORK)))


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many threads, and with as many as before afterwards; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_format(recipe: Recipe, device: torch.device) -> torch.memory_format:
    """Return the faster order of images and convolutions in memory.

    Channels come last, except in video models, on a CPU and, for the tensor cores, on a GPU in half precision:
    https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html
    """
    if recipe.backbone.startswith(VIDEO):
        return torch.contiguous_format
    half = on_this_machine(recipe).precision != "no"
    return torch.channels_last if half or device.type == "cpu" else torch.contiguous_format


def order_channels(model: nn.Module, order: torch.memory_format) -> nn.Module:
    """Store the weights of a model's 2-D convolutions in this order, in place; those of 3-D ones have no such order."""
    for weights in (*model.parameters(), *model.buffers()):
        if weights.ndim == 4:
            weights.data = weights.data.contiguous(memory_format=order)
    return model


@torch.no_grad()
def fold_batch_norms(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a copy of a frozen model whose convolutions contain the batch norms that follow them.

    On a CPU, where batch norms wait for memory, the copy takes a fraction of the time.

    Args:
        model: the model, in evaluation mode.
        inputs: a batch [B, 3, H, W], or of clips [B, T, 3, H, W], that shows which batch norm follows what.

    Returns:
        The copy, or the model itself if it has no such pairs or the copy would compute anything else.
    """
    outputs, runs = dict[nn.Conv2d, tuple[Tensor, int]](), Counter[nn.Module]()
    pairs = dict[nn.BatchNorm2d, nn.Conv2d]()

    def see(module: nn.Conv2d | nn.BatchNorm2d, given: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            outputs[module] = output, output._version  # an operator in between may have changed it in place
            return
        for conv, (last, version) in outputs.items():
            if given and given[0] is last and last._version == version:
                pairs[module] = conv

    kinds = (nn.Conv2d, Conv2dSame, nn.BatchNorm2d, BatchNormAct2d)  # not those derived from them, which compute more
    handles = [module.register_forward_hook(see) for module in model.modules() if type(module) in kinds]
    expected = model(inputs)
    for handle in handles:
        handle.remove()
    pairs = {norm: conv for norm, conv in pairs.items() if runs[norm] == runs[conv] == 1}
    if not pairs:
        return model
    copies: dict[int, Any] = {}  # of each module, by the id of the original
    folded = copy.deepcopy(model, copies)
    for norm, conv in pairs.items():
        _fold(copies[id(norm)], copies[id(conv)], folded)
    return folded if same_output(folded(inputs), expected) else model


def _fold(norm: nn.BatchNorm2d, conv: nn.Conv2d, model: nn.Module) -> None:
    """Multiply a convolution of a model by the batch norm after it, in place, and leave only its activation there."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is norm:
                setattr(parent, name, rest)


def same_output(computed: Tensor, expected: Tensor) -> bool:
    """Return whether two ways to compute an output agree up to rounding."""
    return bool((computed - expected).abs().max() <= TOLERANCE * (1e-6 + expected.std()))


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return the accelerator of a run.

    Raises:
        ConfigError: it does not support the precision, the processes would not work together or divide the weights
            among themselves, or they cannot share the batch evenly.
    """
    for kind in ("FSDP", "DEEPSPEED"):
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):  # set by `accelerate launch`; it has no effect on a CPU
            raise ConfigError(
                f"{kind} divides weights among processes, which checkpoints and the choice of the best epoch do not "
                "support: launch without it. To save memory, use lora (--lora 16), grad_checkpointing "
                "(--grad-checkpointing), accumulate (--accumulate) and 8-bit optimisers (--optimizer bnbadamw8bit)."
            )
    AcceleratorState._reset_state()  # otherwise its precision is fixed for the life of the process
    try:
        accelerator = Accelerator(
            mixed_precision=on_this_machine(recipe).precision,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # otherwise a second copy of the gradients
            ],
        )
    except ValueError as error:
        raise ConfigError(f"This device does not support precision {recipe.precision}: {error}") from None
    if (started := int(os.environ.get("WORLD_SIZE", "1"))) != accelerator.num_processes:
        raise ConfigError(
            f"{started} processes were started, but without a GPU each would train alone: set ACCELERATE_USE_CPU=true "
            "to train together on the CPU, or start one process."
        )
    parts = accelerator.num_processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise ConfigError(
            f"batch_size (--batch-size) {recipe.batch_size} cannot be divided by {accelerator.num_processes} processes "
            f"x {recipe.accumulate} parts."
        )
    if recipe.mixes and recipe.batch_size // parts % 2:
        raise ConfigError(
            f"mixup and cutmix pair the images of a batch: {recipe.batch_size} divided by "
            f"{accelerator.num_processes} processes x {recipe.accumulate} parts is odd."
        )
    return accelerator


def require_pairs(model: nn.Module, recipe: Recipe, processes: int) -> None:
    """Raise ConfigError if each process gets single images and a model needs several: to normalise their features."""
    parts = processes * recipe.accumulate
    if recipe.batch_size == parts and any(isinstance(module, nn.BatchNorm1d) for module in model.modules()):
        raise ConfigError(
            f"batch_size (--batch-size) {recipe.batch_size} leaves single images for {processes} processes x "
            f"{recipe.accumulate} parts, from which batch normalisation cannot learn. Choose at least {2 * parts}, or "
            "another projector (--projector mlp-ln)."
        )


def device_name(accelerator: Accelerator, threads: int | None = None) -> str:
    """Return the number and name of the training devices; for a CPU, with its threads."""
    name = (
        torch.cuda.get_device_name(accelerator.device)
        if accelerator.device.type == "cuda"
        else f"{platform.machine()} CPU, {counted(threads or torch.get_num_threads(), 'thread')}"
    )
    return f"{accelerator.num_processes} x {name}"


def evaluation_loader(dataset: LabelledInputs, accelerator: Accelerator, workers: int) -> DataLoader[Batch]:
    """Return a loader of this process's share of a dataset, in order."""
    batches = ShareInOrder(len(dataset), EVALUATION_BATCH, accelerator.process_index, accelerator.num_processes)
    return make_loader(dataset, batches, workers, pin_memory=accelerator.device.type == "cuda")


@torch.no_grad()
def predict_logits(
    model: nn.Module, loader: DataLoader[Batch], normalize: Normalization, accelerator: Accelerator
) -> np.ndarray:
    """Return the logits of a whole dataset in its order, float32 [N, C], or what else the model says, in every process.

    Args:
        model: maps inputs to logits; it is put into evaluation mode meanwhile.
        loader: as returned by `evaluation_loader`.
        normalize: what prepares the inputs on their device.
    """
    was_training = model.training
    model.eval()
    parts = []
    for batch in loader:
        with accelerator.autocast():
            found = model(normalize(batch.inputs.to(accelerator.device, non_blocking=True)))
        parts.append(found.float() if found.is_floating_point() else found)  # masks are uint8
    model.train(was_training)
    return _in_dataset_order(torch.cat(parts), len(loader.dataset), accelerator)  # type: ignore[arg-type]


def _in_dataset_order(logits: Tensor, size: int, accelerator: Accelerator) -> np.ndarray:
    """Join the shares of P processes; process p holds positions p, p + P, p + 2 P..."""
    share = -(-size // accelerator.num_processes)
    padded = torch.cat([logits, logits.new_zeros(share - len(logits), logits.shape[1])])
    everyone = accelerator.gather(padded).view(accelerator.num_processes, share, -1)
    return np.asarray(everyone.transpose(0, 1).reshape(-1, logits.shape[1])[:size].cpu().numpy())
