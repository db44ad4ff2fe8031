"""Workflows from images and descriptions to vectors, soft labels, trained models and the report of a comparison."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import (
    ArmOptions,
    DataOptions,
    GuidanceOptions,
    LabelOptions,
    MeasureOptions,
    TeacherOptions,
    TextOptions,
)
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.class_texts import with_named_classes
from gpt4image.images.open import open_images
from gpt4image.images.sources.detect import require_source
from gpt4image.train.libraries import require_library
from gpt4image.workflows.arm_inputs import ArmInputs
from gpt4image.workflows.inputs import (
    check_names,
    make_set_labels,
    make_text_labels,
    open_descriptions,
    open_embeddings,
    open_guidance,
    open_regions,
)

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison
    from gpt4image.compare.robustness import Measures
    from gpt4image.compare.training import Series
    from gpt4image.descriptions import DescriptionSet
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.soft_labels import ComparedEncoder, LabelReport, SoftLabels
    from gpt4image.soft_labels.set_labels import SetLabels
    from gpt4image.train.recipe import Recipe
    from gpt4image.train.run import TrainedRun
    from gpt4image.train.tracking import TrackerName

PROCESS_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables in which launchers give the number of processes, as `accelerate` reads them."""


def run_embedding(data: DataOptions, text: TextOptions, work: Path) -> tuple[ImageTable, tuple[EmbeddingStore, ...]]:
    """Embed the descriptions with each text encoder; return the images and the vectors."""
    check_names(text)
    workdir = WorkDir(work)
    images = open_images(data, workdir)
    return images, open_embeddings(open_descriptions(images, text, workdir), text, workdir)


def run_encoder_comparison(data: DataOptions, text: TextOptions, work: Path) -> list[ComparedEncoder]:
    """Embed the descriptions with each text encoder and evaluate a classifier on each; the best comes first."""
    from gpt4image.soft_labels import compare_encoders

    images, stores = run_embedding(data, text, work)
    return compare_encoders(images, stores, WorkDir(work).labels)


def run_labelling(
    data: DataOptions, text: TextOptions, options: LabelOptions, work: Path
) -> LabellingResult | SetLabellingResult:
    """Compute text labels and soft labels from descriptions, and list likely label errors.

    Raises:
        ConfigError: there are no descriptions, or the file of classes does not fit the images.
    """
    from gpt4image.probing.cross_fit import STRENGTH
    from gpt4image.soft_labels import label_by_vectors, report_labels, write_label_issues

    check_names(text, options.classes)
    workdir = WorkDir(work)
    images = with_named_classes(open_images(data, workdir), options.classes)
    if images.has_boxes:
        images.check_one_class()
    descriptions = open_descriptions(images, text, workdir)
    stores = open_embeddings(descriptions, text, workdir)
    folder = workdir.text_labels("+".join(text.encoder))
    if images.is_multi_label:
        return SetLabellingResult(make_set_labels(images, stores, text, options, folder))
    text_labels = make_text_labels(images, stores, text, options, folder, picks=descriptions.picks)
    if not (images.labels[images.split("train")] >= 0).any():
        return LabellingResult(text_labels, None)
    labels = label_by_vectors(
        images,
        stores,
        workdir.labels("+".join(text.encoder)),
        strength=options.strength or STRENGTH,
        folds=options.folds,
        seed=options.label_seed,
    )
    report = report_labels(labels, images)
    write_label_issues(labels.layout.doubtful, report.issues)
    return LabellingResult(text_labels, report)


@dataclass(frozen=True)
class SetLabellingResult:
    """Text labels of images with several labels each."""

    labels: SetLabels

    def lines(self) -> list[str]:
        """Format the result for the terminal."""
        return self.labels.lines()

    def fields(self) -> dict[str, object]:
        """Return the result as values for JSON."""
        known = self.labels.manifest
        shares = {
            name: {"precision": precision, "recall": recall}
            for name, (precision, recall) in zip(known.classes, known.estimate.per_class, strict=True)
        }
        made = {"folder": self.labels.layout.folder, "images": len(self.labels), "estimate": known.estimate}
        return {"text_labels": made, "soft_labels": None, "per_class": shares, "issues": []}


@dataclass(frozen=True)
class LabellingResult:
    """Text labels, and the report on soft labels; None without a given label."""

    text_labels: SoftLabels
    report: LabelReport | None

    def lines(self) -> list[str]:
        """Format both for the terminal."""
        from gpt4image.soft_labels import describe_text_labels

        return [*describe_text_labels(self.text_labels), *(self.report.lines() if self.report else [])]

    def fields(self) -> dict[str, object]:
        """Return both as values for JSON."""
        texts, report = self.text_labels, self.report
        soft = report.labels.manifest if report else None
        return {
            "text_labels": {"folder": texts.layout.folder, "images": len(texts), "estimate": texts.manifest.estimate},
            "soft_labels": report
            and soft
            and {
                "folder": report.labels.layout.folder,
                "images": soft.images,
                "temperature": soft.temperature,
                "quality": soft.quality,
            },
            "per_class": {name: {"images": n, "right": right} for name, (n, right) in report.per_class.items()}
            if report
            else {},
            "issues": report.issues if report else [],
        }


def run_teacher(data: DataOptions, options: TeacherOptions, work: Path) -> EmbeddingStore | SoftLabels:
    """Compute a vision teacher's vectors of images, or a classifier's soft labels.

    Raises:
        ConfigError: several views were requested of a classifier.
    """
    workdir, name = WorkDir(work), options.teacher
    check_names(GuidanceOptions(text="none", teachers=(name,)), options.teacher_checkpoint)
    images = open_images(data, workdir)
    with console.doing(f"Loading the teacher {name}"):
        from gpt4image.teachers import embed_images, label_images, load_teacher

        teacher = load_teacher(name, checkpoint=options.teacher_checkpoint, image_size=options.teacher_size)
    settings: dict[str, Any] = {
        "splits": options.splits,
        "batch_size": options.teacher_batch,
        "workers": options.workers,
        "on_bad_image": data.on_bad_image,
    }
    if teacher.classes is None:
        folder = workdir.image_embeddings(name)
        return embed_images(images, teacher, folder, views=options.views, seed=options.view_seed, **settings)
    if options.views > 1:
        raise ConfigError(f"{name} provides one soft label per image: leave views (--views) at 1.")
    return label_images(images, teacher, workdir.labels(name), **settings)


def run_training(
    data: DataOptions,
    text: GuidanceOptions,
    recipe: Recipe,
    work: Path,
    *,
    arm: str,
    seed: int,
    workers: int | None,
    track: Sequence[TrackerName] = (),
    labeller: LabelOptions | None = None,
) -> TrainedRun:
    """Train one model on the images and, if its arm uses them, the descriptions.

    Args:
        data: the images.
        text: descriptions, encoders and teachers.
        recipe: the recipe.
        work: the work directory.
        arm: name of the arm to train.
        seed: seed of the run.
        workers: processes that prepare batches.
        track: experiment trackers.
        labeller: how labels are made for arms whose labels replace given ones.
    """
    from gpt4image.train.spec import ARMS, RunInputs

    uses_text, labeller = ARMS.load(arm).uses_text, labeller or LabelOptions()
    named = text if uses_text else replace(text, text="none")
    check_names(named, labeller.classes, crop_text=data.crop_text, recipe=recipe)
    from gpt4image.compare.plan import RunMaker, Variant
    from gpt4image.train.processes import loader_workers, on_this_machine
    from gpt4image.train.run import CHECKPOINT_SECONDS, begin_run
    from gpt4image.train.tracking import Tracking

    workdir = WorkDir(work)
    tracking = Tracking(tuple(track), workdir.tracking) if track else None
    with first_process(recipe):
        images = with_named_classes(open_images(data, workdir, whole=True), labeller.classes)
        if uses_text and not recipe.weight and not recipe.soft_labels:
            console.say(
                f"weight (--weight) and soft_labels (--soft-labels) are 0: the arm {arm} trains on labels alone.",
                "yellow",
            )
        unused = [*text.teachers, *(["soft labels (--soft-labels)"] if recipe.soft_labels else [])]
        if not uses_text and unused:
            console.say(f"The arm {arm} trains on labels alone, without {', '.join(unused)}.", "yellow")
        inputs: ArmInputs | None = None
        if uses_text:
            descriptions = open_descriptions(images, text, workdir)
            alone = ARMS.load(arm).guidance == "anchors"  # its teacher embeds crops, and the texts that it needs
            guidance = ((), ()) if alone else open_guidance(images, descriptions, text, recipe, workdir, workers or 0)
            stores, soft_labels = guidance
            options = ArmOptions(labeller=labeller)
            regions = () if alone else open_regions(images, data, text, workdir)
            inputs = ArmInputs(
                images, descriptions, stores, soft_labels, text, recipe, workdir, options, workers or 0, *regions
            )
    maker = RunMaker(RunInputs(images), inputs, workdir, loader_workers(workers), CHECKPOINT_SECONDS, tracking)
    spec = maker(Variant(arm, on_this_machine(recipe)), seed)
    if spec is None:
        raise ConfigError(
            f"The arm {arm} learns from the predictions of the baseline with the same settings, which is not trained "
            f"yet: gpt4image train --arm baseline --seed {seed}, or compare the arms (gpt4image compare --arms {arm})."
        )
    return begin_run(spec, workdir.run(arm, seed))


def run_comparison(
    data: DataOptions,
    text: GuidanceOptions,
    recipe: Recipe,
    work: Path,
    *,
    seeds: int,
    workers: int | None,
    track: Sequence[TrackerName] = (),
    options: ArmOptions | None = None,
    name: str | None = None,
    series: Series | None = None,
    opened: tuple[ImageTable, DescriptionSet] | None = None,
    runs_at_once: int = 1,
) -> Comparison:
    """Train with and without descriptions, and write `comparison.json` and `report.html` into the work directory.

    Args:
        data: the images.
        text: descriptions, encoders and teachers.
        recipe: recipe of all arms.
        work: the work directory.
        seeds: number of seeds.
        workers: processes that prepare batches.
        track: experiment trackers.
        options: the arms, how labels are made, removed or corrupted for them, and settings to sweep or tune.
        name: name of the experiment; None for one that says what it compares.
        series: the series that this comparison is a part of.
        opened: the images and descriptions, if they are already open.
        runs_at_once: runs that are trained at once, each in a process of its own with its share of the threads.
    """
    workdir, options = WorkDir(work), options or ArmOptions()
    for source in options.measures.transfer:
        require_source(source)
    new = None if workdir.comparison.exists() else recipe  # a finished comparison needs no timm
    check_names(text, options.labeller.classes, crop_text=data.crop_text, recipe=new)
    from gpt4image.compare.experiments import check_experiment_name, read_sweep
    from gpt4image.compare.finished import find_finished, hash_inputs, save_finished
    from gpt4image.train.spec import add_controls
    from gpt4image.train.tracking import Tracking

    sweep = read_sweep(options.sweep)
    if sweep and options.tune:
        raise ConfigError("sweep (--sweep) and tune (--tune) exclude each other: try given values, or search for them.")
    if options.tune:
        require_library("optuna")
    if name is not None:
        check_experiment_name(name)
    if options.controls:
        options = replace(options, arms=add_controls(options.arms))
    tracking = Tracking(tuple(track), workdir.tracking) if track else None
    with nullcontext() if is_alone() else first_process(recipe):
        images, descriptions = opened or open_described(data, text, workdir, options.labeller.classes)
        regions = open_regions(images, data, text, workdir)
        inputs = hash_inputs(images, descriptions, text, recipe, seeds, options, *regions)
        if finished := find_finished(inputs, text, recipe, work, options, name):
            console.say(
                f"Experiment {finished.experiment} is finished: same images, descriptions and settings, and no file "
                "has changed."
            )
            return finished
        with console.doing("Loading what training needs"):
            from gpt4image.compare.arms import compare_arms
            from gpt4image.report import write_report
            from gpt4image.train.processes import make_accelerator

            accelerator = make_accelerator(recipe)
        measures = open_measures(options.measures, images, workdir, workers or 0)
        stores, soft_labels = open_guidance(images, descriptions, text, recipe, workdir, workers or 0)
    own = ArmInputs(images, descriptions, stores, soft_labels, text, recipe, workdir, options, workers or 0, *regions)
    comparison = compare_arms(
        images,
        descriptions,
        stores,
        recipe,
        work,
        soft_labels=soft_labels,
        seeds=range(seeds),
        workers=workers,
        tracking=tracking,
        arms=options.arms,
        margin=options.margin / 100,
        inputs=own,
        name=name,
        sweep=sweep,
        tune=options.tune,
        frozen_accuracy=own.frozen_accuracy,
        measure=measures,
        series=series,
        runs_at_once=runs_at_once,
    )
    if accelerator.is_main_process and comparison.experiment is not None:
        with console.doing("Writing the report"):
            write_report(workdir.experiment(comparison.experiment))
            write_report(work)
        if tracking:
            from gpt4image.workflows.track import track_comparison

            track_comparison(tracking, comparison, workdir.report)
        save_finished(inputs, text, recipe, work, options, comparison.experiment)
    return comparison


def open_described(
    data: DataOptions, text: GuidanceOptions, workdir: WorkDir, classes: Path | None = None
) -> tuple[ImageTable, DescriptionSet]:
    """Open images, whose classes a file may name, and their descriptions, and print a summary."""
    images = with_named_classes(open_images(data, workdir, whole=True), classes)
    return images, open_descriptions(images, text, workdir)


def open_measures(options: MeasureOptions, images: ImageTable, workdir: WorkDir, workers: int) -> Measures | None:
    """Return what to measure beyond the test images; None for nothing. Errors are raised here, before training."""
    from gpt4image.compare.robustness import Measures
    from gpt4image.images import load_images

    if not options.corruptions and not options.transfer:
        return None
    others = [load_images(source, work=workdir.folder) for source in options.transfer]
    measures = Measures(images, options, others, workdir.features, workers)
    measures.check()
    return measures


def is_alone() -> bool:
    """Whether this process trains by itself, according to the launchers' environment variables."""
    return not any(int(os.environ.get(name, "1")) > 1 for name in PROCESS_COUNTS)


def first_process(recipe: Recipe) -> AbstractContextManager[None]:
    """Return a context that the first process enters before the others, to fill the caches that they read."""
    from gpt4image.train.processes import make_accelerator

    context: AbstractContextManager[None] = make_accelerator(recipe).main_process_first()
    return context
