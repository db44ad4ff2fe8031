"""Cost of the alignment: the same training step with and without text.

    python benchmarks/alignment_overhead.py --backbone resnet18 --image-size 160 --batch-size 64

A step reads its batch (vectors from a memory-mapped store of 100,000 images, pixels from memory) and runs forward,
backward and the optimiser. The two sides take turns, so other load on the machine affects both. If the machine's speed
drifts by more than the alignment costs, the ratio needs many steps. The benchmark therefore also times what the
alignment adds on its own (reading the vectors, projector, loss, gradients and updates), and counts what does not depend
on the machine: floating-point operations and operator calls (about one kernel each on a GPU).
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpt4image.align.head import Targets
from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore
from gpt4image.train.build import build_model, build_optimizer
from gpt4image.train.data import Batch
from gpt4image.train.guidance import Guidance, VectorSource
from gpt4image.train.objective import Objective
from gpt4image.train.recipe import Recipe

IMAGES, CLASSES = 100_000, 1000


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


class Side:
    """Training with or without text."""

    def __init__(self, recipe: Recipe, guidance: Guidance, accelerator: Accelerator) -> None:
        torch.manual_seed(0)
        options = {"img_size": recipe.image_size} if recipe.backbone.startswith(("vit", "deit")) else {}
        backbone = timm.create_model(recipe.backbone, num_classes=CLASSES, **options)
        sample = {(0, 0): torch.zeros(3, recipe.image_size, recipe.image_size)}
        ids = np.asarray([f"{number:032x}" for number in range(1000)], dtype="S32")
        model = build_model(backbone, sample, ids, guidance, recipe, seed=0)  # type: ignore[arg-type]
        self.model, self.optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
        if recipe.compile:
            self.model.compile()
        self.objective = Objective(recipe, CLASSES, accelerator, weight=recipe.weight)
        self.guidance, self.accelerator, self.recipe = guidance, accelerator, recipe
        self.heads = accelerator.unwrap_model(self.model).heads
        self.heads_optimizer = build_optimizer(self.heads, recipe) if len(self.heads) else None
        self.rng = np.random.default_rng(1)

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
        """Run a step and return its seconds."""
        started = self.now()
        batch = self.batch(pixels, labels).to(self.accelerator.device)
        classification, alignment = self.objective.losses(self.model, batch)
        self.accelerator.backward(classification + self.objective.weight * alignment)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.now() - started

    def step_of_heads(self, pixels: Tensor, labels: Tensor) -> float:
        """Run what the heads add to a step, on random features, and return its seconds."""
        (head,) = self.heads
        device = self.accelerator.device
        features = torch.randn(len(labels), head.projector[0].in_features, device=device, requires_grad=True)
        started = self.now()
        batch = self.batch(pixels[:, :, :1, :1], labels).to(device)
        with self.accelerator.autocast():
            targets = Targets(batch.vectors, batch.known, batch.ids, batch.labels, tuple(batch.counts[2:]))
            alignment = head.align(head(features), targets)
        self.accelerator.backward(self.objective.weight * alignment)
        self.heads_optimizer.step()
        self.heads_optimizer.zero_grad()
        return self.now() - started

    def now(self) -> float:
        """Return the time once the device has finished its work."""
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

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
    """Print both sides and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--width", type=int, default=512, help="length of a text vector")
    parser.add_argument("--loss", default="clip")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    recipe = Recipe(
        backbone=chosen.backbone, pretrained=False, image_size=chosen.image_size, batch_size=chosen.batch_size,
        loss=chosen.loss, compile=chosen.compile, precision=chosen.precision,
    )  # fmt: skip
    accelerator = Accelerator(mixed_precision=chosen.precision)
    with tempfile.TemporaryDirectory() as folder:
        source = VectorSource((write_store(Path(folder) / "store", chosen.width),))
        without = Side(recipe, Guidance(), accelerator)
        with_text = Side(replace(recipe), Guidance((source,)), accelerator)
        pixels = torch.randn(chosen.batch_size, 3, chosen.image_size, chosen.image_size)
        labels = torch.randint(0, CLASSES, (chosen.batch_size,))
        for side in (without, with_text) * 3:
            side.step(pixels, labels)
            if side.heads_optimizer:
                side.step_of_heads(pixels, labels)
        times: dict[str, list[float]] = {"without": [], "with": [], "heads": []}
        for number in range(chosen.steps):
            order = [("without", without), ("with", with_text)]
            for name, side in order if number % 2 else order[::-1]:
                times[name].append(side.step(pixels, labels))
            times["heads"].append(with_text.step_of_heads(pixels, labels))
        report_time(chosen.backbone, accelerator, times)
        if not chosen.compile:  # the operators of a compiled step are not visible
            report_work(without.work(pixels, labels), with_text.work(pixels, labels))
        report_memory(without.parameters, with_text.parameters)


def report_time(backbone: str, accelerator: Accelerator, times: dict[str, list[float]]) -> None:
    """Print medians, and the median ratio per step with its 95% interval by order statistics."""
    ratios = sorted(b / a for a, b in zip(times["without"], times["with"], strict=True))
    reach = 1.96 * math.sqrt(len(ratios)) / 2
    low = ratios[max(0, math.floor(len(ratios) / 2 - reach) - 1)]
    high = ratios[min(len(ratios) - 1, math.ceil(len(ratios) / 2 + reach))]
    without, with_text = (statistics.median(times[name]) for name in ("without", "with"))
    heads = statistics.median(b / a for a, b in zip(times["without"], times["heads"], strict=True))
    print(f"{backbone} on {accelerator.device}, {len(ratios)} steps each, torch {torch.__version__}")
    print(f"without text  {without * 1000:9.1f} ms a step")
    print(f"with text     {with_text * 1000:9.1f} ms a step")
    print(
        f"ratio         {statistics.median(ratios):9.4f} (median over steps, 95% interval {low:.4f} to {high:.4f}; ",
        end="",
    )
    print(f"of the medians {with_text / without:.4f})")
    print(f"added alone   {statistics.median(times['heads']) * 1000:9.1f} ms, {heads:.2%} of a step without text")


def report_work(without: tuple[int, int], with_text: tuple[int, int]) -> None:
    """Print what a step computes."""
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
