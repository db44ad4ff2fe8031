"""What the alignment costs: the same training step without text and with it, in turn, in one run.

    python benchmarks/alignment_overhead.py --backbone resnet18 --image-size 160 --batch-size 64

A step reads its batch (vectors from a memory-mapped store of 100,000 images, pixels from memory), runs forward,
backward and the optimiser. The two sides take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import argparse
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

from gpt4image.embed.store import EmbeddingLayout, EmbeddingStore, Manifest
from gpt4image.files import write_json
from gpt4image.train.data import Batch
from gpt4image.train.guidance import Guidance, VectorSource
from gpt4image.train.objective import Objective
from gpt4image.train.recipe import Recipe
from gpt4image.train.setup import make_model, make_optimizer

IMAGES, CLASSES = 100_000, 1000


def write_store(folder: Path, width: int) -> EmbeddingStore:
    """A store of random unit vectors."""
    layout, rng = EmbeddingLayout(folder), np.random.default_rng(0)
    folder.mkdir()
    vectors = rng.standard_normal((IMAGES, width)).astype(np.float32)
    ids = np.asarray([f"{number:032x}" for number in range(IMAGES)], dtype="S32")
    np.save(layout.vectors, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16))
    np.save(layout.ids, ids)
    np.save(layout.offsets, np.arange(IMAGES + 1))
    np.save(layout.rows, np.arange(IMAGES))
    manifest = Manifest(
        encoder="random", revision="0", width=width, max_tokens=1, long_text="truncate", text_hash="0", images=IMAGES,
        distinct_texts=IMAGES, texts=IMAGES, truncated=0, longest={},
    )  # fmt: skip
    write_json(layout.manifest, manifest.to_dict())
    return EmbeddingStore(folder)


class Side:
    """One of the two trainings."""

    def __init__(self, recipe: Recipe, guidance: Guidance, accelerator: Accelerator) -> None:
        torch.manual_seed(0)
        options = {"img_size": recipe.image_size} if recipe.backbone.startswith(("vit", "deit")) else {}
        backbone = timm.create_model(recipe.backbone, num_classes=CLASSES, **options)
        sample = {(0, 0): torch.zeros(3, recipe.image_size, recipe.image_size)}
        ids = np.asarray([f"{number:032x}" for number in range(1000)], dtype="S32")
        model = make_model(backbone, sample, ids, guidance, recipe, seed=0)  # type: ignore[arg-type]
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
        if recipe.compile:
            self.model.compile()
        self.objective = Objective(recipe, CLASSES, accelerator, weight=recipe.weight)
        self.guidance, self.accelerator, self.recipe = guidance, accelerator, recipe
        self.rng = np.random.default_rng(1)

    def batch(self, pixels: Tensor, labels: Tensor) -> Batch:
        """A batch with the vectors of random images."""
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
        """Seconds of one step."""
        started = time.perf_counter()
        batch = self.batch(pixels, labels).to(self.accelerator.device)
        classification, alignment = self.objective.losses(self.model, batch)
        self.accelerator.backward(classification + self.objective.weight * alignment)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

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
        times: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(chosen.steps):
            order = [("without", without), ("with", with_text)]
            for name, side in order if number % 2 else order[::-1]:
                times[name].append(side.step(pixels, labels))
    report(chosen.backbone, accelerator, times, without.parameters, with_text.parameters)


def report(backbone: str, accelerator: Accelerator, times: dict[str, list[float]], plain: int, aligned: int) -> None:
    """Medians, their ratio, the middle half of the ratios step by step, and the parameters that come with it."""
    ratios = sorted(b / a for a, b in zip(times["without"], times["with"], strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    without, with_text = (statistics.median(times[name]) for name in ("without", "with"))
    print(f"{backbone} on {accelerator.device}, {len(ratios)} steps each, torch {torch.__version__}")
    print(f"without text  {without * 1000:9.1f} ms a step")
    print(f"with text     {with_text * 1000:9.1f} ms a step")
    print(f"ratio         {with_text / without:9.4f} (step by step: median {statistics.median(ratios):.4f}, ", end="")
    print(f"middle half {low:.4f} to {high:.4f})")
    extra = aligned - plain
    print(f"memory        {extra:,} parameters more ({extra / plain:.1%}), {extra * 16 / 2**20:.1f} MiB", end=" ")
    print("with gradients and AdamW's state, during training alone")


if __name__ == "__main__":
    main()
