"""What was found, as records."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from gpt4image.compare.records import (
    ArmRecord,
    ClassRecord,
    Comparison,
    DataRecord,
    Difference,
    EncoderRecord,
    EpochRecord,
    RunRecord,
)
from gpt4image.compare.test_answers import AnsweredTestSet
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images import find_duplicates
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.probing.calibration import measure
from gpt4image.probing.intervals import paired_interval
from gpt4image.soft_labels import SoftLabels
from gpt4image.train.guidance import is_text
from gpt4image.train.processes import make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import TrainedRun

REFERENCE, CANDIDATE = "baseline", "described"


KEPT_REJECTS = 200


"""Rejected images that are named in the record; all are counted."""


@dataclass(frozen=True)
class RunOutcome:
    """A finished run and its answers to the test images."""

    run: TrainedRun
    answers: AnsweredTestSet


def record_comparison(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    recipe: Recipe,
    outcomes: dict[str, list[RunOutcome]],
    soft_labels: Sequence[SoftLabels] = (),
) -> Comparison:
    """Everything that was found, as a record."""
    reference, candidate = outcomes[REFERENCE], outcomes[CANDIDATE]
    differences = right_answers(candidate) - right_answers(reference)
    interval = paired_interval(differences)
    return Comparison(
        version=version("gpt4image"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        classes=list(images.classes),
        data=record_data(images, descriptions),
        encoders=[record_encoder(store) for store in stores if is_text(store)],
        recipe=recipe.to_dict(),
        arms=[record_arm(runs) for runs in outcomes.values()],
        difference=Difference(
            arm=CANDIDATE,
            reference=REFERENCE,
            seeds=[outcome.run.seed for outcome in candidate],
            per_seed=differences.mean(axis=1).tolist(),
            mean=interval.mean,
            low=interval.low,
            high=interval.high,
            covers=interval.covers,
        ),
        per_class=[record_class(images, label, outcomes, differences) for label in range(len(images.classes))],
        seconds=sum(outcome.run.seconds for runs in outcomes.values() for outcome in runs),
        device=describe_device(recipe),
        notes=[*notes(images, recipe, soft_labels), *teacher_notes(stores)],
    )


def right_answers(outcomes: Sequence[RunOutcome]) -> np.ndarray:
    """Whether each seed's model answers each test image right, float [S, N]."""
    return np.stack([(o.answers.logits.argmax(axis=1) == o.answers.labels).astype(float) for o in outcomes])


def record_arm(outcomes: Sequence[RunOutcome]) -> ArmRecord:
    """One arm's runs and its confusion matrix over all seeds."""
    metrics = [measure(outcome.answers.logits, outcome.answers.labels) for outcome in outcomes]
    runs = [
        RunRecord(
            arm=outcome.run.arm.name,
            seed=outcome.run.seed,
            best_epoch=outcome.run.best_epoch,
            validation_accuracy=outcome.run.best_accuracy,
            test_accuracy=found.accuracy,
            balanced_accuracy=found.balanced_accuracy,
            negative_log_likelihood=found.negative_log_likelihood,
            seconds=outcome.run.seconds,
            history=[EpochRecord(**epoch) for epoch in outcome.run.history],
        )
        for outcome, found in zip(outcomes, metrics, strict=True)
    ]
    arm = outcomes[0].run.arm
    confusion = np.sum([found.confusion for found in metrics], axis=0)
    return ArmRecord(name=arm.name, title=arm.title, runs=runs, confusion=confusion.tolist())


def record_class(
    images: ImageTable, label: int, outcomes: dict[str, list[RunOutcome]], differences: np.ndarray
) -> ClassRecord:
    """One class: its images and both arms' accuracy on them."""
    chosen = outcomes[REFERENCE][0].answers.labels == label
    count = int(chosen.sum())
    interval = paired_interval(differences[:, chosen]) if count > 1 else None
    accuracy = {arm: float(right_answers(runs)[:, chosen].mean()) if count else None for arm, runs in outcomes.items()}
    return ClassRecord(
        name=images.classes[label],
        train_images=int((images.labels[images.split("train")] == label).sum()),
        test_images=count,
        accuracy=accuracy,
        difference=float(differences[:, chosen].mean()) if count else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def record_data(images: ImageTable, descriptions: DescriptionSet) -> DataRecord:
    """The image set and how far the descriptions cover it."""
    duplicates, coverage = find_duplicates(images), descriptions.coverage
    return DataRecord(
        source=images.source,
        images={split: len(images.split(split)) for split in SPLITS},
        rejected=[(image.path, image.reason) for image in images.rejected[:KEPT_REJECTS]],
        rejected_total=len(images.rejected),
        duplicates=duplicates.surplus,
        leaked=len(duplicates.leaked),
        descriptions_source=descriptions.source,
        with_text=dict(coverage.with_text),
        without_text=dict(coverage.without_text),
        orphan_texts=coverage.orphans,
        repeated_texts=coverage.repeated,
    )


def record_encoder(store: EmbeddingStore) -> EncoderRecord:
    """The text encoder and what it could not read."""
    manifest = store.manifest
    return EncoderRecord(
        name=manifest.encoder,
        revision=manifest.revision,
        width=manifest.width,
        max_tokens=manifest.max_tokens,
        pooling=manifest.long_text,
        distinct_texts=manifest.distinct_texts,
        truncated_texts=manifest.truncated,
    )


def describe_device(recipe: Recipe) -> str:
    """The device in words, with the version of torch."""
    import torch

    accelerator = make_accelerator(recipe)
    on_gpu = accelerator.device.type == "cuda"
    name = (
        torch.cuda.get_device_name(accelerator.device)
        if on_gpu
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return f"{accelerator.num_processes} x {name}, torch {torch.__version__}"


def teacher_notes(stores: Sequence[EmbeddingStore]) -> list[str]:
    """A line for each vision teacher whose vectors were aligned with."""
    return [
        f"Arm {CANDIDATE} was also aligned with the vision teacher {store.manifest.encoder} ({store.width} wide)."
        for store in stores
        if not is_text(store)
    ]


def soft_label_line(labels: SoftLabels) -> str:
    """What soft labels come from, and how good they are."""
    manifest = labels.manifest
    makers = " and ".join(source.name for source in manifest.origin.sources)
    of = {"text": "a classifier on vectors of the texts by", "images": "a classifier on vectors of the images by"}
    line = f"those of {of.get(manifest.origin.kind, 'the classifier')} {makers}"
    if manifest.origin.folds:
        line += ", which had not seen the image they are given to"
    if manifest.quality:
        line += f", right for {manifest.quality.accuracy:.1%} of the images"
    return f"{line}; temperature {manifest.temperature:.2f} unless the recipe has its own."


def notes(images: ImageTable, recipe: Recipe, soft_labels: Sequence[SoftLabels] = ()) -> list[str]:
    """What a reader has to know to judge the numbers."""
    found = [
        "The epoch of each run was chosen by validation accuracy; the test images were answered once, at the end.",
        "Both arms start from the same weights and see the same images in the same order with the same seed."
        if recipe.unlabelled == "skip"
        else f"Both arms start from the same weights; {CANDIDATE} also sees images without a label.",
    ]
    if recipe.freeze:
        found.append(f"Frozen modules, the same in both arms: {', '.join(recipe.freeze)}.")
    if recipe.cached_views:
        found.append(
            f"Their output was computed once for {recipe.cached_views} augmented views of each training image and "
            "stored in float16; training ran on the rest of the network."
        )
    if recipe.soft_labels:
        share = f"{recipe.soft_labels:.0%} of the labels in training of {CANDIDATE}"
        found += [f"{share}: {soft_label_line(each)}" for each in soft_labels]
    unlabelled = int((images.labels[images.split("train")] < 0).sum())
    if unlabelled and recipe.unlabelled == "skip":
        found.append(f"{unlabelled:,} training images without a label were not used.")
    if unlabelled and recipe.unlabelled == "align" and (recipe.weight or recipe.soft_labels):
        found.append(
            f"Of {unlabelled:,} training images without a label those with a description took part in {CANDIDATE}."
        )
    conflicts = len(find_duplicates(images).conflicting)
    if conflicts:
        found.append(f"{conflicts:,} images occur under more than one label.")
    return found
