"""Trained models put to use: exported, and asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gpt4image.core.options import WORK, DataOptions


@dataclass(frozen=True)
class Export:
    """Write a run's model for deployment, plain timm weights and ONNX, and prove that they answer alike."""

    source: DataOptions
    run_folder: Annotated[Path, tyro.conf.arg(name="run")]
    """The run, such as gpt4image-work/runs/described-0."""
    out: Path
    """Folder for the model."""
    onnx: bool = True
    """Also write ONNX."""
    tolerance: float = 1e-3
    """Largest allowed difference of a logit."""
    work: Path = WORK
    """The work directory that the images were checked in."""

    def run(self) -> None:
        """Export and print how near each form is to the trained model."""
        from gpt4image.core.workdir import WorkDir
        from gpt4image.export import export_model
        from gpt4image.images.open import open_images
        from gpt4image.train.run import open_run

        images = open_images(self.source, WorkDir(self.work))
        found = export_model(open_run(self.run_folder), images, self.out, onnx=self.onnx, tolerance=self.tolerance)
        print("\n".join(parity.line() for parity in found) + f"\nmodel: {self.out}")


@dataclass(frozen=True)
class Predict:
    """Label images with an exported model: one line an image, tab separated."""

    model: tyro.conf.Positional[Path]
    """Folder of the exported model."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Images, or folders of images."""
    top: int = 3
    """Classes named for each image."""

    def run(self) -> None:
        """Print path, then class and probability in turn; an unreadable image gets its reason."""
        from gpt4image.core.format import printable
        from gpt4image.export import predict_images

        for found in predict_images(self.model, self.images, top=self.top):
            answers = [cell for name, probability in found.answers for cell in (name, f"{probability:.4f}")]
            cells = [str(found.path), *(answers or [f"error: {found.error}"])]
            print("\t".join(map(printable, cells)))
