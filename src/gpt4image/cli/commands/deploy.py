"""Deployment: export a trained model, and predict with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from gpt4image.core.options import WORK, DataOptions


@dataclass(frozen=True)
class Export:
    """Export a run's model as timm weights and ONNX.

    Compares the exported models' logits with those of the trained one.
    """

    SHORT: ClassVar = ("run", "out", "onnx", "tolerance", "work")
    EXAMPLE: ClassVar = "photos --run gpt4image-work/runs/described-0 --out model"
    source: DataOptions
    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """Folder of the run, such as gpt4image-work/runs/described-0."""
    out: Path
    """Folder for the exported model."""
    onnx: bool = True
    """Also export ONNX."""
    tolerance: float = 1e-3
    """Largest allowed difference of a logit."""
    work: Path = WORK
    """Work directory of the images."""

    def run(self) -> None:
        """Export, and print the largest difference of the logits."""
        from gpt4image.core.console import show
        from gpt4image.core.workdir import WorkDir
        from gpt4image.export import export_model
        from gpt4image.images.open import open_images
        from gpt4image.train.run import open_run

        images = open_images(self.source, WorkDir(self.work))
        found = export_model(open_run(self.run_folder), images, self.out, onnx=self.onnx, tolerance=self.tolerance)
        show("\n".join([*(parity.line() for parity in found), f"model: {self.out}"]))


@dataclass(frozen=True)
class Predict:
    """Classify images with an exported model.

    Prints a tab-separated line per image: its path, then classes and their probabilities.
    """

    EXAMPLE: ClassVar = "model photos/new"
    model: tyro.conf.Positional[Path]
    """Folder of the exported model."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    top: int = 3
    """Number of classes to print."""

    def run(self) -> None:
        """Print path, classes and probabilities; an unreadable image gets the reason."""
        from gpt4image.core.format import printable
        from gpt4image.export import predict_images

        for found in predict_images(self.model, self.images, top=self.top):
            answers = [cell for name, probability in found.answers for cell in (name, f"{probability:.4f}")]
            cells = [str(found.path), *(answers or [f"error: {found.error}"])]
            print("\t".join(map(printable, cells)))
