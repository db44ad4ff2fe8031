"""The training step: timm's loop, this library's loop without text, and with text, in turns.

    python benchmarks/training_step.py --backbone resnet18 --image-size 160 --batch-size 32
    python benchmarks/training_step.py --plain-torch    # also ours without channels-last memory and fused optimiser

timm's loop is the step of its training script: forward, loss, backward, clipping, optimiser. A step of ours reads its
batch (vectors from a memory-mapped store of 100,000 images, pixels from memory), does the same, and adds the alignment.
The cost is processor time on a CPU and seconds on a GPU. The cost of the alignment is also timed separately, and given
in units that do not depend on the machine: floating-point operations and operator calls.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator
from paired import Spread, add_options, processor_seconds, ratio, save, take_turns
from timm.optim import create_optimizer_v2
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt4image.align.head import Targets
from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore
from gpt4image.tasks.classification import CLASSIFICATION
from gpt4image.train.build import build_model, build_optimizer
from gpt4image.train.data import Batch
from gpt4image.train.guidance import Guidance, VectorSource
from gpt4image.train.loop import LossWatch, Trainer, accumulate_gradients, clip_gradients
from gpt4image.train.objective import Objective
from gpt4image.train.processes import make_accelerator, memory_format
from gpt4image.train.recipe import Recipe
from gpt4image.train.transforms import Normalization

IMAGES, CLASSES = 100_000, 1000
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_store(folder: Path, width: int) -> EmbeddingStore:
    """Write a store of random unit vectors."""
    layout, rng = EmbeddingLayout(folder), np.random.default_rng(0)
    folder.mkdir()
    vectors = rng.standard_normal((IMAGES, width)).astype(np.float32)
    ids = np.asarray([f"{number:032x}" for number in range(IMAGES)], dtype="S32")
    np.save(layout.vectors, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
    np.save(layout.ids, ids)
    np.save(layout.offsets, np.arange(IMAGES + 1))
    np.save(layout.rows, np.arange(IMAGES))
    EmbeddingManifest(
        encoder="random", revision="0", width=width, max_tokens=1, long_text="truncate", text_hash="0", images=IMAGES,
        distinct_texts=IMAGES, texts=IMAGES, truncated=0, longest={},
    ).save(layout.manifest)  # fmt: skip
    return EmbeddingStore(folder)


class CallCounter(TorchDispatchMode):
    """Counts calls of operators, except views, which cost next to nothing."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def new_backbone(recipe: Recipe) -> nn.Module:
    """Build the backbone; every side starts from the same weights."""
    torch.manual_seed(0)
    options = {"img_size": recipe.image_size} if recipe.backbone.startswith(("vit", "deit")) else {}
    model: nn.Module = timm.create_model(recipe.backbone, num_classes=CLASSES, **options)
    return model


def now(device: torch.device) -> float:
    """Return the processor time in seconds or, on a GPU, the wall time once it has finished its work."""
    if device.type != "cuda":
        return processor_seconds()
    torch.cuda.synchronize()
    return time.perf_counter()


class TimmLoop:
    """The essentials of timm's training script with its default options."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device, self.model = recipe, device, new_backbone(recipe).to(device).train()
        self.optimizer = create_optimizer_v2(self.model, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def step(self, pixels: Tensor, labels: Tensor) -> float:
        """Run a step and return its cost."""
        started = now(self.device)
        inputs = IMAGENET(pixels.to(self.device))
        loss = self.loss(self.model(inputs), labels.to(self.device))
        loss.backward()
        dispatch_clip_grad(self.model.parameters(), value=self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()
        return now(self.device) - started


class Side:
    """Training with or without text.

    Args:
        fast: use the channels-last memory format where that is faster, and a fused optimiser, as the library does.
    """

    def __init__(self, recipe: Recipe, guidance: Guidance, accelerator: Accelerator, *, fast: bool = True) -> None:
        sample = {(0, 0): torch.zeros(3, recipe.image_size, recipe.image_size)}
        ids = np.asarray([f"{number:032x}" for number in range(1000)], dtype="S32")
        model = build_model(new_backbone(recipe), sample, ids, guidance, recipe, seed=0)  # type: ignore[arg-type]
        if fast:
            model.to(memory_format=memory_format(recipe, accelerator.device))
        optimizer = build_optimizer(model, recipe)
        for group in () if fast else optimizer.param_groups:
            group["fused"] = None
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if recipe.compile:
            self.model.compile()
        self.objective = Objective(recipe, CLASSIFICATION, CLASSES, accelerator, weight=recipe.weight)
        self.guidance, self.accelerator = guidance, accelerator
        self.heads = accelerator.unwrap_model(self.model).heads
        self.heads_optimizer = build_optimizer(self.heads, recipe) if len(self.heads) else None
        self.rng = np.random.default_rng(1)
        self.trainer = Trainer(
            recipe, 0, self.model, self.optimizer, None, [], self.objective, None, None, None, None, accelerator,
            LossWatch(1, lambda rows: [], accelerator.gather), IMAGENET,
        )  # type: ignore[arg-type] # fmt: skip

    def batch(self, pixels: Tensor, labels: Tensor) -> Batch:
        """Return a batch with the vectors of random images."""
        size = len(labels)
        places = self.rng.integers(0, IMAGES, (size, 1))
        vectors = tuple(
            torch.from_numpy(source.take(places, "random", 0, np.zeros(size, dtype=np.int64)))
            for source in self.guidance.sources
        )
        known = tuple(torch.ones(size, dtype=torch.bool) for _ in vectors)
        counts = torch.tensor([size, 0, *[size] * len(vectors)], dtype=torch.float32)
        return Batch(
            pixels, labels, vectors, known, torch.zeros(size, 0), torch.from_numpy(places[:, 0]), labels, counts
        )

    def step(self, pixels: Tensor, labels: Tensor) -> float:
        """Run a step as `train_epoch` does and return its cost."""
        started = now(self.accelerator.device)
        batch = self.batch(pixels, labels)
        losses, rows = accumulate_gradients(self.trainer, iter([batch]), 0)
        clip_gradients(self.trainer, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.trainer.watch.record(0, 0, rows, losses)
        return now(self.accelerator.device) - started

    def step_of_heads(self, pixels: Tensor, labels: Tensor) -> float:
        """Run what the heads add to a step, on random features, and return its cost."""
        (head,) = self.heads
        device = self.accelerator.device
        features = torch.randn(len(labels), head.projector[0].in_features, device=device, requires_grad=True)
        started = now(device)
        batch = self.batch(pixels[:, :, :1, :1], labels).to(device)
        with self.accelerator.autocast():
            targets = Targets(batch.vectors, batch.known, batch.ids, batch.labels, tuple(batch.counts[2:]))
            alignment = head.align(head(features), targets)
        self.accelerator.backward(self.objective.weight * alignment)
        self.heads_optimizer.step()
        self.heads_optimizer.zero_grad()
        return now(device) - started

    def work(self, pixels: Tensor, labels: Tensor) -> tuple[int, int]:
        """Return the floating-point operations and operator calls of a step."""
        with FlopCounterMode(display=False) as flops, CallCounter() as calls:
            self.step(pixels, labels)
        return flops.get_total_flops(), calls.count

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def main() -> None:
    """Print and save every side and the ratios to timm's loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=512, help="length of a text vector")
    parser.add_argument("--loss", default="clip")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plain-torch", action="store_true", help="also without channels last and fused optimiser")
    add_options(parser, rounds=30)
    asked = parser.parse_args()
    recipe = Recipe(
        backbone=asked.backbone, pretrained=False, image_size=asked.image_size, batch_size=asked.batch_size,
        loss=asked.loss, compile=asked.compile, precision=asked.precision,
    )  # fmt: skip
    accelerator = make_accelerator(recipe)
    with tempfile.TemporaryDirectory() as folder:
        source = VectorSource((write_store(Path(folder) / "store", asked.width),))
        sides = {
            "timm": TimmLoop(recipe, accelerator.device),
            "without text": Side(recipe, Guidance(), accelerator),
            "with text": Side(recipe, Guidance((source,)), accelerator),
        }
        if asked.plain_torch:
            sides["plain torch"] = Side(recipe, Guidance(), accelerator, fast=False)
        pixels = torch.randint(0, 256, (asked.batch_size, 3, asked.image_size, asked.image_size), dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (asked.batch_size,))
        steps = {name: partial(side.step, pixels, labels) for name, side in sides.items()}
        steps["alignment alone"] = partial(sides["with text"].step_of_heads, pixels, labels)  # type: ignore[union-attr]
        costs = take_turns(steps, asked.rounds, warm_up=3)
        rows = [
            {"side": name, "seconds": Spread.of(cost), "timm_over_it": ratio(costs["timm"], cost),
             "over_without_text": ratio(cost, costs["without text"])}
            for name, cost in costs.items()
        ]  # fmt: skip
        for row in rows:
            print(f"{row['side']:16} {row['seconds']} s, over without text {row['over_without_text']}", end=", ")
            print(f"timm over it {row['timm_over_it']}")
        if not asked.compile:  # the operators of a compiled step are not visible
            report_work(*(sides[name].work(pixels, labels) for name in ("without text", "with text")))  # type: ignore[union-attr]
        report_memory(*(sides[name].parameters for name in ("without text", "with text")))  # type: ignore[union-attr]
    save("training_step", asked, rows)


def report_work(without: tuple[int, int], with_text: tuple[int, int]) -> None:
    """Print the operations of a step."""
    (flops, calls), (flops_with, calls_with) = without, with_text
    print(f"work          {flops / 1e9:,.1f} GFLOP and {(flops_with - flops) / flops:.3%} more with text; ", end="")
    print(f"{calls:,} operator calls and {calls_with - calls:,} more")


def report_memory(plain: int, aligned: int) -> None:
    """Print the parameters that the text adds."""
    extra = aligned - plain
    print(f"memory        {extra:,} parameters more ({extra / plain:.1%}), {extra * 16 / 2**20:.1f} MiB", end=" ")
    print("with gradients and AdamW's state, during training only")


if __name__ == "__main__":
    main()
