"""Estimate the memory of training from shapes alone, without loading or creating weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gpt4image.align.aligned_model import find_classifier
from gpt4image.align.projector import Projector
from gpt4image.core.errors import ConfigError
from gpt4image.train.backbone import create_model, fitting_options
from gpt4image.train.build import build_optimizer
from gpt4image.train.low_rank import add_adapters, count_parameters
from gpt4image.train.recipe import Recipe

FLOAT = 4  # bytes of a 32-bit number; weights, gradients and states keep that format in mixed precision too
SIDE = 64  # width of the layer on which optimiser states are counted; bitsandbytes leaves smaller ones in 32 bits
DIRECTIONS = 2  # images to texts, and back


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of a training process in bytes, apart from the libraries themselves.

    Attributes:
        parameters: parameters of the backbone, its classifier and adapters included.
        trained: those of them that are trained.
        weights: weights of the backbone.
        gradients: their gradients.
        states: states of the optimiser.
        activations: what the backward pass needs of each image, in 32 bits; about half in mixed precision. Without the
            maps of attention, which fused kernels do not keep.
        checkpointed: the same of each image with `grad_checkpointing`: the input of each block, and the activations of
            one; None if the model has no `blocks`.
        projector: weights, gradients and states of a projector.
        gathered: the projected images and texts of the whole batch, and the similarities of this process's images and
            texts with all of them, with their gradients.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    states: int
    activations: int
    checkpointed: int | None
    projector: int
    gathered: int

    def total(self, images: int, checkpointing: bool) -> int:
        """Return the sum for a number of images. ConfigError if the model cannot recompute activations."""
        each = self.checkpointed if checkpointing else self.activations
        if each is None:
            raise ConfigError(
                "The memory of recomputed activations is only known for models with blocks, such as a ViT."
            )
        return self.weights + self.gradients + self.states + images * each + self.projector + self.gathered


def estimate_memory(recipe: Recipe, classes: int, width: int, processes: int = 1) -> TrainingMemory:
    """Estimate the memory of a process that trains a classifier of timm.

    Args:
        recipe: backbone, image size, batch size, optimiser, projector, and rank of adapters.
        classes: number of classes.
        width: width D of the text vectors.
        processes: processes W that share a batch of B images; each holds all weights.

    Raises:
        ConfigError: unknown backbone or optimiser, an image size that it does not take, or a batch that the processes
            cannot share evenly.
    """
    if recipe.batch_size % (processes * recipe.accumulate):
        raise ConfigError(
            f"batch_size {recipe.batch_size} (--batch-size) cannot be divided by {processes} processes (--processes) x "
            f"{recipe.accumulate} parts."
        )
    sample = torch.zeros(1, 3, recipe.image_size, recipe.image_size, device="meta")
    with torch.device("meta"):
        model = create_model(recipe.backbone, pretrained=False, num_classes=classes, **fitting_options(recipe))
        if recipe.lora:
            add_adapters(model, recipe.lora, 0, sample)
        classifier = find_classifier(model)
        features = getattr(classifier, "in_features", None) or model.num_features
        head = Projector(features, width, recipe.projector_hidden, recipe.projector)  # type: ignore[arg-type]
    trained, parameters = count_parameters(model)
    state = state_bytes(recipe)
    activations, checkpointed = activation_bytes(model, sample)
    batch, own = recipe.batch_size, recipe.batch_size // (processes * recipe.accumulate)
    whole = batch // recipe.accumulate  # contrastive losses compare within one part
    return TrainingMemory(
        parameters=parameters,
        trained=trained,
        weights=FLOAT * parameters,
        gradients=FLOAT * trained,
        states=round(state * trained),
        activations=activations,
        checkpointed=checkpointed,
        projector=round((2 * FLOAT + state) * count_parameters(head)[0]),
        gathered=FLOAT * (2 * whole * width + 2 * DIRECTIONS * own * whole),
    )


def state_bytes(recipe: Recipe) -> float:
    """Return the bytes that the recipe's optimiser keeps for a parameter, counted after a step of it."""
    layer = nn.Linear(SIDE, SIDE, bias=False)
    optimizer = build_optimizer(layer, recipe)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.nbytes for value in kept if value.numel() > 1) / layer.weight.numel()


class FusedAttention(TorchFunctionMode):
    """Has attention keep what its fused kernels keep: no map, which on the device `meta` takes their place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        named = kwargs or {}
        if func is not F.scaled_dot_product_attention or named.get("is_causal"):
            return func(*args, **named)
        mask: Tensor | None = named.get("attn_mask")
        mask = mask if mask is None else mask.detach()  # whether it is learned does not change what is kept
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3], attn_mask=mask)[0]


def activation_bytes(model: nn.Module, sample: Tensor) -> tuple[int, int | None]:
    """Return the bytes that the backward pass of a model needs of an input, and with recomputed blocks.

    Args:
        model: a model on the device `meta`.
        sample: an input [1, 3, H, W] there.
    """
    stages = getattr(model, "blocks", None)
    blocks = list(stages) if isinstance(stages, nn.Sequential | nn.ModuleList) else []
    inputs: list[int] = []
    handles = [part.register_forward_pre_hook(lambda _, given: inputs.append(given[0].nbytes)) for part in blocks]
    weights = {part.untyped_storage()._cdata for part in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # kept alive, so that no other storage gets its address
        return saved

    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved), FusedAttention():
            output = model.train()(sample)
    except Exception as error:  # asserts, shapes: each architecture raises its own errors
        raise ConfigError(
            f"{type(model).__name__} does not accept images of {sample.shape[-1]} pixels: {error}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    del output
    total = sum(storage.nbytes() for storage in kept.values())
    if not blocks:
        return total, None
    return total, sum(inputs) + (total - sum(inputs)) // len(blocks)


def described(memory: TrainingMemory, recipe: Recipe, width: int, processes: int = 1) -> list[tuple[str, str]]:
    """Return the memory of a process as names and sentences.

    Args:
        memory: the estimate.
        recipe: its recipe.
        width: width D of the text vectors.
        processes: processes that share a batch.
    """
    own = recipe.batch_size // (processes * recipe.accumulate)
    each = [f"{own:,} images at a time, {megabytes(memory.activations)} each"]
    each += [f"recomputed {megabytes(memory.checkpointed)} each"] if memory.checkpointed is not None else []
    held = [gigabytes(memory.total(own, False))]
    if memory.checkpointed is not None:
        held.append(f"{gigabytes(memory.total(own, True))} with --grad-checkpointing")
    return [
        ("weights", f"{gigabytes(memory.weights)}: {memory.parameters / 1e6:,.1f} million parameters"),
        ("gradients", f"{gigabytes(memory.gradients)}: {memory.trained / 1e6:,.1f} million are trained"),
        ("optimiser", f"{gigabytes(memory.states)}: the states of {recipe.optimizer}"),
        ("activations", f"{gigabytes(own * memory.activations)}: {', '.join(each)}, in 32 bits; about half in 16"),
        ("alignment", f"{gigabytes(memory.projector + memory.gathered)}: {megabytes(memory.projector)} of projector, "
         f"{megabytes(memory.gathered)} of vectors of width {width} and their similarities"),
        ("in all", "; ".join(held)),
    ]  # fmt: skip


def gigabytes(size: int) -> str:
    """Return a size in GB.

    >>> gigabytes(4_540_000_000)
    '4.54 GB'
    """
    return f"{size / 1e9:.2f} GB"


def megabytes(size: int) -> str:
    """Return a size in MB.

    >>> megabytes(81_250_000)
    '81.2 MB'
    """
    return f"{size / 1e6:.1f} MB"
