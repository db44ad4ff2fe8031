"""Summarise finished runs as a `Comparison`: accuracies, paired differences with intervals, and notes."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean
from typing import Any

import numpy as np
import torch

from gpt4image.compare.model_facts import adapted_backbones, described_regions, teachers_of_crops
from gpt4image.compare.plan import Variant
from gpt4image.compare.records import (
    ArmRecord,
    ClassRecord,
    Comparison,
    DataRecord,
    Difference,
    EncoderRecord,
    EpochRecord,
    GroupRecord,
    Needed,
    RunRecord,
    TextOriginRecord,
    VariantRecord,
)
from gpt4image.core.format import counted
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images import find_duplicates
from gpt4image.images.table import SPLITS, ImageTable
from gpt4image.probing.intervals import PairedDifference, sample_size
from gpt4image.probing.verdicts import EQUIVALENCE_CONFIDENCE, holm
from gpt4image.soft_labels import SoftLabels
from gpt4image.tasks import Predictions, Task, find_task
from gpt4image.train.guidance import is_text
from gpt4image.train.identity import in_words
from gpt4image.train.processes import device_name, make_accelerator
from gpt4image.train.recipe import Recipe
from gpt4image.train.run import TrainedRun
from gpt4image.train.spec import ARMS, CANDIDATE, REFERENCE, guided_by

GROUPS = {"many": 101, "medium": 20, "few": 0}
"""Groups of classes by the smallest number of labelled training images: more than 100, 20 to 100, and fewer, as in Liu
et al., "Large-Scale Long-Tailed Recognition in an Open World", arXiv 1904.05160, section 4."""
KEPT_REJECTS = 200  # rejected images listed in the record; all are counted


VERSIONS = ("torch", "timm", "torchvision", "numpy", "pillow", "sentence-transformers")


TrainedVariants = Mapping[int, tuple[Variant, Sequence[TrainedRun]]]
"""Variants and their runs, by number."""


@dataclass(frozen=True)
class RunOutcome:
    """A finished run and its predictions for the test images."""

    run: TrainedRun
    predictions: Predictions


def record_comparison(
    images: ImageTable,
    descriptions: DescriptionSet,
    stores: Sequence[EmbeddingStore],
    recipe: Recipe,
    outcomes: dict[str, list[RunOutcome]],
    soft_labels: Sequence[SoftLabels] = (),
    margin: float = 0.01,
) -> Comparison:
    """Summarise the outcomes of S seeds for each arm. `margin` is the largest negligible difference of accuracy."""
    task = find_task(images)
    predictions = {arm: [outcome.predictions for outcome in runs] for arm, runs in outcomes.items()}
    right = {arm: np.stack([found.scores for found in runs]) for arm, runs in predictions.items()}  # [S, N] each
    candidate = find_candidate(list(outcomes)) or CANDIDATE
    seeds = [outcome.run.seed for outcome in outcomes[REFERENCE]]
    rivals = [arm for arm in right if ARMS.load(arm).of_images_alone]
    train_images = images.class_counts()[:-1, 0]
    classes = [np.array([label]) for label in range(len(images.classes))]
    groups = group_classes(train_images)
    found = task.compare_classes(predictions, candidate, REFERENCE, [*classes, *groups.values()])
    devices = dict.fromkeys(outcome.run.device for runs in outcomes.values() for outcome in runs if outcome.run.device)
    return Comparison(
        version=version("gpt4image"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        classes=list(images.classes),
        data=_record_data(images, descriptions),
        encoders=[_record_encoder(store) for store in stores if is_text(store)],
        recipe=recipe.to_dict(),
        arms=[_record_arm(task, runs) for runs in outcomes.values()],
        **compare_with_baseline(candidate, right, {arm: ARMS.load(arm).controls for arm in right}, seeds, margin),
        rivals=tuple(record_difference(candidate, arm, right, seeds) for arm in rivals),
        per_class=[
            ClassRecord(name=name, train_images=trained, **vars(each))
            for name, trained, each in zip(images.classes, train_images.tolist(), found[: len(classes)], strict=True)
        ],
        groups=tuple(
            GroupRecord(name=name, classes=len(members), train_images=int(train_images[members].sum()), **vars(each))
            for (name, members), each in zip(groups.items(), found[len(classes) :], strict=True)
        ),
        task=task.name,
        score=task.score,
        class_score=task.class_score,
        seconds=sum(outcome.run.seconds for runs in outcomes.values() for outcome in runs),
        device=f"{', '.join(devices) or device_name(make_accelerator(recipe))}, torch {torch.__version__}",
        versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        notes=[
            *_notes(images, task, stores, recipe, soft_labels, list(outcomes)),
            *teachers_of_crops([runs[0].run for runs in outcomes.values()]),
            *described_regions([runs[0].run for runs in outcomes.values()]),
            *adapted_backbones([runs[0].run for runs in outcomes.values()]),
        ],
        text_origins=tuple(
            TextOriginRecord(model=model, prompt=prompt, texts=texts, cost=descriptions.costs.get((prompt, model)))
            for (prompt, model), texts in descriptions.origins.items()
        ),
    )


def find_candidate(names: Sequence[str]) -> str | None:
    """Return the arm whose difference from the baseline is the headline: the first that learns from texts.

    Where none does, it is the arm that uses classes picked by an LLM.
    """
    learn = [name for name in names if name != REFERENCE and ARMS.load(name).learns_from_texts]
    learn.sort(key=lambda name: ARMS.load(name).labels == "llm")
    return next(iter(learn), None)


def compare_with_baseline(
    candidate: str,
    right: Mapping[str, np.ndarray],
    controls: Mapping[str, str | None],
    seeds: Sequence[int],
    margin: float,
) -> dict[str, Any]:
    """Return the fields of a `Comparison` that the verdict is based on.

    Args:
        candidate: the arm of the headline.
        right: scores of the predictions of each arm, float [S, N].
        controls: the arm that each arm is a control of, or None.
        seeds: the S seeds.
        margin: largest negligible difference of accuracy.
    """
    judged = [arm for arm in right if arm != REFERENCE and controls.get(arm) is None]
    found = {arm: record_difference(arm, REFERENCE, right, seeds) for arm in right if arm != REFERENCE}
    adjusted = holm([found[arm].p_value or 0.0 for arm in judged])
    for arm, p_value in zip(judged, adjusted, strict=True):
        record = found[arm].model_copy(update={"adjusted_p": p_value})
        if record.kind(margin) == "undecided":
            record = _add_needed(record, right, margin, len(judged))
        found[arm] = record
    against = [record_difference(arm, control, right, seeds) for control, arm in controls.items() if arm in found]
    return {
        "difference": found.pop(candidate),
        "others": tuple(found.values()),
        "controls": tuple(_add_needed(each, right) if each.mean > 0 >= each.low else each for each in against),
        "margin": margin,
    }


def record_difference(arm: str, reference: str, right: Mapping[str, np.ndarray], seeds: Sequence[int]) -> Difference:
    """Summarise the paired difference of two arms.

    Args:
        arm: the arm.
        reference: the arm that it is compared with.
        right: score of each arm for each seed and image, from 0 to 1, float [S, N].
        seeds: the S seeds.
    """
    differences = right[arm] - right[reference]  # [S, N]
    found = PairedDifference.of(differences)
    interval, equivalence = found.interval(), found.interval(EQUIVALENCE_CONFIDENCE)
    return Difference(
        arm=arm,
        reference=reference,
        seeds=list(seeds),
        per_seed=differences.mean(axis=1).tolist(),
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        covers=interval.covers,
        p_value=found.p_value,
        equivalence=(equivalence.low, equivalence.high),
    )


def _add_needed(
    difference: Difference, right: Mapping[str, np.ndarray], margin: float = 0.0, comparisons: int = 1
) -> Difference:
    """Return a difference with the sample size needed to judge it; with a single seed, which cannot tell, as it is."""
    if len(difference.seeds) < 2:
        return difference
    size = sample_size(right[difference.arm] - right[difference.reference], margin, comparisons)
    return difference.model_copy(update={"needed": Needed(**asdict(size))})


def record_variants(trained: TrainedVariants, chosen: Mapping[str, int]) -> list[VariantRecord]:
    """Summarise variants on the validation images.

    Args:
        trained: variants and their runs, by number.
        chosen: number of each arm's chosen variant.
    """
    return [
        VariantRecord(
            arm=variant.arm,
            title=variant.title,
            changes={name: in_words(value) for name, value in variant.changes.items()},
            seeds=[run.seed for run in runs],
            validation_accuracy=[run.best_accuracy for run in runs],
            mean=mean_validation(runs),
            chosen=number == chosen[variant.arm],
        )
        for number, (variant, runs) in trained.items()
    ]


def choose_variants(trained: TrainedVariants) -> dict[str, int]:
    """Return the number of each arm's variant with the best mean validation accuracy; ties go to the first."""
    chosen: dict[str, int] = {}
    for number, (variant, runs) in trained.items():
        best = chosen.get(variant.arm)
        if best is None or mean_validation(runs) > mean_validation(trained[best][1]):
            chosen[variant.arm] = number
    return chosen


def mean_validation(runs: Sequence[TrainedRun]) -> float:
    """Return the mean validation accuracy of runs, from 0 to 1."""
    return fmean(run.best_accuracy for run in runs)


def _record_arm(task: Task, outcomes: Sequence[RunOutcome]) -> ArmRecord:
    arm = outcomes[0].run.arm
    predictions = [outcome.predictions for outcome in outcomes]
    return ArmRecord(
        name=arm.name,
        title=arm.title,
        runs=[record_run(each) for each in outcomes],
        confusion=np.sum([found.confusion for found in predictions], axis=0).tolist(),
        controls=arm.controls,
        reliability=tuple(task.reliability(predictions)),
    )


def record_run(outcome: RunOutcome) -> RunRecord:
    """Summarise one run."""
    run, predictions = outcome.run, outcome.predictions
    metrics = predictions.measure()
    return RunRecord(
        arm=run.arm.name,
        seed=run.seed,
        best_epoch=run.best_epoch,
        validation_accuracy=run.best_accuracy,
        test_accuracy=metrics.pop("accuracy"),
        **metrics,
        seconds=run.seconds,
        history=[EpochRecord(**epoch) for epoch in run.history],
        folder=run.layout.folder.name,
    )


def group_classes(train_images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the classes, int64 [c], of each non-empty group of `GROUPS`, given each class's training images [C]."""
    members, most = {}, np.inf
    for name, least in GROUPS.items():
        members[name], most = np.flatnonzero((train_images >= least) & (train_images < most)), least
    return {name: classes for name, classes in members.items() if len(classes)}


def _record_data(images: ImageTable, descriptions: DescriptionSet) -> DataRecord:
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
        rejected_boxes=len(images.rejected_boxes),
    )


def _record_encoder(store: EmbeddingStore) -> EncoderRecord:
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


def _notes(
    images: ImageTable,
    task: Task,
    stores: Sequence[EmbeddingStore],
    recipe: Recipe,
    soft_labels: Sequence[SoftLabels],
    compared: Sequence[str],
) -> list[str]:
    """Return notes that readers need to interpret the numbers."""
    aligned = [arm for arm in map(ARMS.load, compared) if arm.uses_text and arm.settings.get("weight", recipe.weight)]
    taught = [arm.name for arm in aligned if guided_by(arm, compared)[1]]
    unlabelled = int((~images.is_labelled[images.split("train")]).sum())
    last = recipe.keep == "last"
    kept = (
        "The last epoch of each run was kept"
        if last
        else f"The epoch of each run was chosen by validation {task.score}"
    )
    found = [
        f"{kept}; the test images were predicted once, at the end.",
        "Both arms start from the same weights and see the same images in the same order with the same seed."
        if recipe.unlabelled == "skip" or not unlabelled
        else f"Both arms start from the same weights; {CANDIDATE} also sees images without a label.",
    ]
    if recipe.freeze:
        found.append(f"Frozen modules, the same in both arms: {', '.join(recipe.freeze)}.")
    if recipe.cached_views:
        found.append(
            f"Their output was computed once for {recipe.cached_views} augmented views of each training image and "
            "stored in float16; the rest of the network was trained on it."
        )
    if recipe.soft_labels:
        share = f"{recipe.soft_labels:.0%} of the labels in training of {CANDIDATE}"
        found += [f"{share}: {_soft_label_source(each)}" for each in soft_labels]
    if unlabelled and recipe.unlabelled == "skip":
        found.append(f"Not used: {counted(unlabelled, 'training image')} without a label.")
    if unlabelled and recipe.unlabelled == "align" and (recipe.weight or recipe.soft_labels):
        found.append(
            f"Of {counted(unlabelled, 'training image')} without a label, those with a description trained {CANDIDATE}."
        )
    conflicts = len(find_duplicates(images).conflicting)
    if conflicts:
        found.append(f"With more than one label: {counted(conflicts, 'image')}.")
    found += [
        f"Vision teacher {store.manifest.encoder} ({store.width} wide), for the alignment of {', '.join(taught)}."
        for store in stores
        if taught and not is_text(store)
    ]
    return found


def _soft_label_source(labels: SoftLabels) -> str:
    """Describe where soft labels come from and how good they are."""
    manifest = labels.manifest
    makers = " and ".join(source.name for source in manifest.origin.sources)
    of = {"text": "a classifier on vectors of the texts by", "images": "a classifier on vectors of the images by"}
    line = f"predicted by {of.get(manifest.origin.kind, 'the classifier')} {makers}"
    if manifest.origin.folds:
        line += ", for images held out of its training"
    if manifest.quality:
        line += f", correct for {manifest.quality.accuracy:.1%} of the images"
    return f"{line}; temperature {manifest.temperature:.2f} unless the recipe sets another."
