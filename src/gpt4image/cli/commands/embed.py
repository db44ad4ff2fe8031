"""Vectors and labels made of descriptions, and vectors and labels that vision teachers give."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gpt4image.core.options import WORK, DataOptions, LabelOptions, TeacherOptions, TextOptions


@dataclass(frozen=True)
class Embed:
    """Turn descriptions into vectors. Goes on where it was; a text that the store holds is not encoded again."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Where the vectors are kept."""

    def run(self) -> None:
        """Embed and say where the vectors lie."""
        from gpt4image.workflows.train import run_embedding

        for store in run_embedding(self.source, self.descriptions, self.work)[1]:
            texts = f"{store.manifest.distinct_texts:,} distinct texts of {len(store):,} images"
            print(f"{texts}, {store.width} numbers each: {store.layout.folder}")


@dataclass(frozen=True)
class EmbedImages:
    """Have a vision teacher answer the images, once for all trainings: vectors beside the text's, or soft labels."""

    source: DataOptions
    teacher: TeacherOptions
    work: Path = WORK
    """Where the answers are kept."""

    def run(self) -> None:
        """Answer what is not answered yet, and say how much there is and where it lies."""
        from gpt4image.embed import EmbeddingStore
        from gpt4image.workflows.train import run_teacher

        found = run_teacher(self.source, self.teacher, self.work)
        if isinstance(found, EmbeddingStore):
            vectors = f"{found.manifest.texts:,} vectors of {len(found):,} distinct images"
            print(f"{vectors}, {found.width} numbers each: {found.layout.folder}")
            return
        if quality := found.manifest.quality:
            print(f"validation images: {quality.accuracy:.1%} of {quality.images:,} right")
        print(
            f"soft labels of {len(found):,} distinct images in {len(found.classes):,} classes, "
            f"temperature {found.manifest.temperature:.2f}: {found.layout.folder}"
        )


@dataclass(frozen=True)
class EmbedCompare:
    """Compare text encoders by what a classifier on their vectors knows of images it has not seen. Trains no model."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Where the vectors are kept."""

    def run(self) -> None:
        """Print a line an encoder, the best first."""
        from gpt4image.soft_labels.report import HEADING
        from gpt4image.workflows.train import run_encoder_comparison

        found = run_encoder_comparison(self.source, self.descriptions, self.work)
        print("\n".join([HEADING, *(each.line() for each in found)]))


@dataclass(frozen=True)
class Label:
    """Have the texts label the training images: class probabilities, by a classifier that has not seen them."""

    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    labeller: LabelOptions = field(default_factory=LabelOptions)
    work: Path = WORK
    """Where the labels are kept."""

    def run(self) -> None:
        """Label, and say how good the labels are and which given ones they speak against."""
        from gpt4image.core.format import printable
        from gpt4image.workflows.train import run_labelling

        report = run_labelling(self.source, self.descriptions, self.labeller, self.work)
        print("\n".join(map(printable, report.lines())))
