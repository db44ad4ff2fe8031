"""Vectors and soft labels from descriptions and from vision teachers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from gpt4image.core.options import WORK, DataOptions, LabelOptions, OutputOptions, TeacherOptions, TextOptions


@dataclass(frozen=True)
class Embed(OutputOptions):
    """Embed descriptions with text encoders.

    Encodes only texts whose vectors are not yet in the work directory, and resumes after an interruption.
    """

    SHORT: ClassVar = ("text", "text-column", "encoder", "long-text", "use-prompts", "use-models", "work")
    EXAMPLE: ClassVar = "photos --text captions.jsonl --encoder minilm"
    KEYS: ClassVar = {"vectors": "for each encoder: encoder, distinct_texts, images, width, folder"}
    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Work directory."""

    def run(self) -> None:
        """Embed the descriptions, and print where the vectors are."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import counted
        from gpt4image.workflows.train import run_embedding

        vectors = []
        for store in run_embedding(self.source, self.descriptions, self.work)[1]:
            known, folder = store.manifest, store.layout.folder
            texts = f"{counted(known.distinct_texts, 'distinct text')} of {counted(len(store), 'image')}"
            show(f"{texts}, {store.width} numbers each: {folder}")
            size = {"distinct_texts": known.distinct_texts, "images": len(store), "width": store.width}
            vectors.append({"encoder": known.encoder, **size, "folder": folder})
        result(vectors=vectors)


@dataclass(frozen=True)
class EmbedImages(OutputOptions):
    """Compute a vision teacher's vectors or soft labels once for all runs."""

    SHORT: ClassVar = ("teacher", "teacher-checkpoint", "splits", "views", "teacher-batch", "workers", "work")
    EXAMPLE: ClassVar = "photos --teacher timm:vit_small_patch14_dinov2.lvd142m"
    KEYS: ClassVar = {
        "kind": "vectors or soft labels",
        "images": "distinct images",
        "width": "numbers per vector, or number of classes",
        "accuracy": "share of the validation images that soft labels get right, 0 to 1; null if not measured",
        "folder": "folder of the vectors or labels",
    }
    source: DataOptions
    teacher: TeacherOptions
    work: Path = WORK
    """Work directory."""

    def run(self) -> None:
        """Compute what is missing, and print the count and the folder."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import counted, percent
        from gpt4image.embed import EmbeddingStore
        from gpt4image.workflows.train import run_teacher

        found = run_teacher(self.source, self.teacher, self.work)
        if isinstance(found, EmbeddingStore):
            vectors = f"{counted(found.manifest.texts, 'vector')} of {counted(len(found), 'distinct image')}"
            show(f"{vectors}, {found.width} numbers each: {found.layout.folder}")
            result(kind="vectors", images=len(found), width=found.width, accuracy=None, folder=found.layout.folder)
            return
        if quality := found.manifest.quality:
            show(f"validation images: {percent(quality.accuracy)} of {quality.images:,} correct")
        show(
            f"soft labels of {counted(len(found), 'distinct image')} in {counted(len(found.classes), 'class')}, "
            f"temperature {found.manifest.temperature:.2f}: {found.layout.folder}"
        )
        accuracy = quality.accuracy if quality else None
        size = {"images": len(found), "width": len(found.classes)}
        result(kind="soft labels", **size, accuracy=accuracy, folder=found.layout.folder)


@dataclass(frozen=True)
class EmbedCompare(OutputOptions):
    """Compare text encoders by the out-of-fold accuracy of a classifier on their vectors.

    Trains no image model.
    """

    SHORT: ClassVar = Embed.SHORT
    EXAMPLE: ClassVar = "photos --encoder minilm open-clip:ViT-B-32/laion2b_s34b_b79k"
    KEYS: ClassVar = {"encoders": "for each encoder, the best first: its name, width, truncated share and quality"}
    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    work: Path = WORK
    """Work directory."""

    def run(self) -> None:
        """Print a line per encoder, the best first."""
        from gpt4image.core.console import result, show
        from gpt4image.soft_labels.report import HEADING
        from gpt4image.workflows.train import run_encoder_comparison

        found = run_encoder_comparison(self.source, self.descriptions, self.work)
        show("\n".join([HEADING, *(each.line() for each in found)]))
        result(encoders=found)


@dataclass(frozen=True)
class Label(OutputOptions):
    """Label images from their descriptions, estimate how many labels will be right, and list likely label errors.

    Text labels replace missing and wrong labels; soft labels are out-of-fold class probabilities to mix in.
    """

    SHORT: ClassVar = ("text", "text-column", "encoder", "classes", "label-form", "abstain", "folds", "work")
    EXAMPLE: ClassVar = "photos --text captions.jsonl"
    KEYS: ClassVar = {
        "text_labels": "labels that replace given ones: folder, images, estimate (how many are right)",
        "soft_labels": "labels to mix in: folder, images, temperature, quality; null without a given label",
        "per_class": "images of each class, and the share that the soft labels get right; with several labels per "
        "image, precision and recall of the texts",
        "issues": "likely label errors: image_id, path, label, probability, likelier, its_probability",
    }
    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    labeller: LabelOptions = field(default_factory=LabelOptions)
    work: Path = WORK
    """Work directory."""

    def run(self) -> None:
        """Print the estimated quality of the labels, and likely errors among the given ones."""
        from gpt4image.core.console import result, show
        from gpt4image.workflows.train import run_labelling

        found = run_labelling(self.source, self.descriptions, self.labeller, self.work)
        show("\n".join(found.lines()))
        result(**found.fields())


@dataclass(frozen=True)
class Audit(OutputOptions):
    """List likely label errors on a page where a person decides about each.

    The page saves corrections.csv, which every command accepts (--corrections). Test images are left alone.
    """

    SHORT: ClassVar = ("text", "text-column", "encoder", "limit", "write", "work")
    EXAMPLE: ClassVar = "photos --text captions.jsonl"
    KEYS: ClassVar = {
        "examined": "labelled images with a description",
        "undescribed": "labelled images without a description, which are not examined",
        "wrong": "estimated share of wrong labels with its 95% interval, each from 0 to 1; null if it cannot be "
        "estimated",
        "found": "images of each kind: label, duplicate, no class",
        "page": "path of the page on which a person decides",
    }
    source: DataOptions
    descriptions: TextOptions = field(default_factory=TextOptions)
    limit: int = 300
    """Maximum number of images of each kind on the page."""
    write: tuple[Literal["cleanlab", "fiftyone", "label-studio"], ...] = ()
    """Also write the result for other tools."""
    work: Path = WORK
    """Work directory."""

    def run(self) -> None:
        """Print the findings, and where the page is."""
        from gpt4image.core.console import result, show
        from gpt4image.core.format import counted, percent
        from gpt4image.core.workdir import WorkDir
        from gpt4image.soft_labels.report import NOT_ESTIMATED
        from gpt4image.workflows.check import run_audit

        audit = run_audit(self.source, self.descriptions, self.work, limit=self.limit, forms=self.write)
        labels = counted(audit.examined, "training and validation label")
        if audit.wrong is not None:
            span = f"{percent(audit.wrong.low)} to {percent(audit.wrong.high)}"
            show(f"expected to be wrong: {percent(audit.wrong.mean)} ({span}) of {labels}")
        else:
            show(f"{labels} examined: {NOT_ESTIMATED}")
        kinds = {
            "label": "labels likely wrong, by text and label",
            "duplicate": "copies with other labels",
            "no class": "texts that fit no class",
        }
        show(", ".join(f"{kinds[kind]}: {number:,}" for kind, number in audit.found.items()))
        if audit.undescribed:
            show(f"not examined: {counted(audit.undescribed, 'labelled image')} without a description")
        page = WorkDir(self.work).audit_page
        show(f"decide and save corrections.csv: {page}")
        result(examined=audit.examined, undescribed=audit.undescribed, wrong=audit.wrong, found=audit.found, page=page)
