"""The stages joined up: from a source of images to a report. The command line and the demo run exactly this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image import console
from gpt4image.console import counted
from gpt4image.errors import ConfigError, DataError, DescriptionError
from gpt4image.options import DataOptions, DescribeOptions, GuidanceOptions, LabelOptions, TeacherOptions, TextOptions
from gpt4image.workspace import Workspace

if TYPE_CHECKING:
    from gpt4image.compare.records import Comparison
    from gpt4image.describe import DescriptionSet
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.labelling import ComparedEncoder, LabelAccount, SoftLabels
    from gpt4image.teachers.opening import Taught
    from gpt4image.train.recipe import Recipe
    from gpt4image.train.run import TrainedRun

NO_TEXT = "none"
"""In place of a source of texts: teachers alone guide the training."""
DEFAULT_COLUMN = "description"
"""Text column that is read where no other text is named and nothing was described."""


def open_images(options: DataOptions, space: Workspace, *, names_follow: bool = False) -> ImageTable:
    """Load the images, say what was found, and treat images that lie in two splits as the options say.

    Args:
        options: the images.
        space: the work directory.
        names_follow: the caller says which files were left out and which images lie twice.

    Raises:
        DataError: the source is unknown or broken, or images lie in two splits and must not.
    """
    from gpt4image.images import drop_leaks, find_duplicates, load_images

    images = load_images(
        options.data,
        work=space.folder,
        on_bad_image=options.on_bad_image,
        image_column=options.image_column,
        label_column=options.label_column,
        max_pixels=options.max_pixels,
        validation_share=options.validation_share,
        test_share=options.test_share,
        split_seed=options.split_seed,
    )
    leaked = find_duplicates(images).leaked
    if leaked and options.leaks == "fail":
        places = next(iter(leaked.values()))
        raise DataError(
            f"{len(leaked):,} images lie in more than one split, such as {dict(places)}. Take them out of "
            "one, or: --leaks drop."
        )
    if leaked and options.leaks == "drop":
        images = drop_leaks(images)
    say_images(images, names_follow=names_follow)
    return images


def say_images(images: ImageTable, *, names_follow: bool = False) -> None:
    """The image set in a few lines."""
    from gpt4image.images import SPLITS, find_duplicates

    splits = ", ".join(f"{name} {len(images.split(name)):,}" for name in SPLITS)
    console.say(f"images: {len(images):,} in {len(images.classes)} classes ({splits})")
    duplicates = find_duplicates(images)
    if duplicates.surplus:
        console.say(f"duplicates: {counted(duplicates.surplus, 'copy')} of {counted(duplicates.groups, 'image')}")
    if duplicates.leaked:
        console.say(
            f"leakage: {counted(len(duplicates.leaked), 'image')} in more than one split, so test results flatter. "
            "To drop copies from the training side: --leaks drop",
            style="yellow",
        )
    if duplicates.conflicting:
        console.say(f"labels: {counted(len(duplicates.conflicting), 'image')} in more than one class", style="yellow")
    if images.rejected:
        first = images.rejected[0]
        console.say(
            f"left out: {counted(len(images.rejected), 'file')}, such as {first.path} ({first.reason})", style="yellow"
        )
    if not names_follow and (duplicates.surplus or images.rejected):
        console.say(f"Which they are: gpt4image images {images.source}")


def open_descriptions(images: ImageTable, options: TextOptions, space: Workspace) -> DescriptionSet:
    """Read the descriptions, say how far they cover the images, and keep them in the work directory."""
    descriptions = find_descriptions(images, options, space)
    if options.text == NO_TEXT:
        return descriptions
    console.say(descriptions.coverage.line())
    descriptions.save(space.descriptions)
    return descriptions


def find_descriptions(images: ImageTable, options: TextOptions, space: Workspace) -> DescriptionSet:
    """The texts that the options name: a column, a file, or what describers have written into the work directory.

    Raises:
        ConfigError: a prompt or model is chosen that no text has, or of texts that describers did not write.
        DescriptionError: the source is unknown or broken.
    """
    from gpt4image.describe import DescriptionStore, described_set, load_descriptions
    from gpt4image.describe.descriptions import join_texts
    from gpt4image.describe.sharing.rows import store_folder

    if options.text == NO_TEXT:
        return join_texts(images, (), 0, "none")
    elsewhere = options.text and store_folder(Path(options.text))
    store = DescriptionStore(elsewhere or space.description_store)
    chosen = bool(options.use_prompts or options.use_models)
    if elsewhere or (options.text is None and (chosen or not store.is_empty)):
        return described_set(store, images, prompts=options.use_prompts, models=options.use_models)
    if chosen:
        raise ConfigError(
            "Prompts and models are chosen among what describe has written: leave --text out, or "
            "name a work folder with it."
        )
    if options.text is None and DEFAULT_COLUMN not in images.reader.text_columns:
        raise DescriptionError(
            f"{space.folder} holds no descriptions, and {images.source} has no column {DEFAULT_COLUMN!r}. Write some: "
            "gpt4image describe; or name texts, or another work folder that holds some: --text."
        )
    return load_descriptions(
        images,
        options.text or DEFAULT_COLUMN,
        text_column=options.text_column,
        orphan_texts=options.orphan_texts,
    )


def open_embeddings(descriptions: DescriptionSet, options: TextOptions, space: Workspace) -> tuple[EmbeddingStore, ...]:
    """Embed the descriptions with each text encoder, or open the embeddings that are there."""
    from gpt4image.embed import embed_descriptions, load_encoder

    if options.text == NO_TEXT:
        return ()
    if not options.encoder or len(set(options.encoder)) < len(options.encoder):
        named = " ".join(options.encoder) or "none"
        raise ConfigError(f"Name one text encoder, or several different ones, not: {named}.")
    return tuple(
        embed_descriptions(
            descriptions,
            load_encoder(name),
            space.embeddings(name),
            long_text=options.long_text,
            batch_size=options.embed_batch,
        )
        for name in options.encoder
    )


def open_taught(
    images: ImageTable, options: GuidanceOptions, recipe: Recipe, space: Workspace, workers: int = 0
) -> Taught:
    """What the named vision teachers give, computed where it is not there yet.

    Raises:
        ConfigError: a run is named as a teacher, but the recipe mixes in no soft labels.
    """
    from gpt4image.teachers.opening import gives_labels, open_teachers

    idle = [name for name in options.teachers if gives_labels(name)]
    if idle and not recipe.soft_labels:
        raise ConfigError(f"{idle[0]} teaches by soft labels, and the recipe mixes none in: --soft-labels SHARE.")
    return open_teachers(images, options.teachers, space, workers=workers)


def open_guidance(
    images: ImageTable,
    descriptions: DescriptionSet,
    options: GuidanceOptions,
    recipe: Recipe,
    space: Workspace,
    workers: int = 0,
) -> tuple[tuple[EmbeddingStore, ...], tuple[SoftLabels, ...]]:
    """Vectors of the texts, then those of teachers; and soft labels, of teachers that are runs or else of the texts."""
    taught = open_taught(images, options, recipe, space, workers)
    stores = open_embeddings(descriptions, options, space)
    soft_labels = taught.soft_labels or open_soft_labels(images, stores, recipe, space)
    return (*stores, *taught.stores), soft_labels


def open_soft_labels(
    images: ImageTable, stores: Sequence[EmbeddingStore], recipe: Recipe, space: Workspace
) -> tuple[SoftLabels, ...]:
    """Have a classifier on the texts' vectors label the training images, where the recipe mixes its labels in.

    Labels that `gpt4image label` has made of these texts with other settings are taken as they are.
    """
    if not recipe.soft_labels:
        return ()
    if not stores:
        raise ConfigError("Soft labels come from descriptions, or from a run as a teacher: --teachers run:FOLDER.")
    from gpt4image.labelling import label_by_vectors, labels_there

    folder = space.labels("+".join(store.manifest.encoder for store in stores))
    return (labels_there(images, stores, folder) or label_by_vectors(images, stores, folder),)


def run_teacher(data: DataOptions, options: TeacherOptions, work: Path) -> EmbeddingStore | SoftLabels:
    """Have a vision teacher answer images: its vectors, or a classifier's soft labels, or those that are there.

    Raises:
        ConfigError: several views are asked of a classifier.
    """
    from gpt4image.teachers import embed_images, label_images, load_teacher

    space = Workspace(work)
    images = open_images(data, space)
    name = options.teacher
    teacher = load_teacher(name, checkpoint=options.teacher_checkpoint, image_size=options.teacher_size)
    if teacher.classes is None:
        return embed_images(
            images,
            teacher,
            space.image_embeddings(name),
            splits=options.splits,
            batch_size=options.teacher_batch,
            views=options.views,
            seed=options.view_seed,
            workers=options.workers,
            on_bad_image=data.on_bad_image,
        )
    if options.views > 1:
        raise ConfigError(f"{name} gives soft labels, one an image: leave --views out.")
    return label_images(
        images,
        teacher,
        space.labels(name),
        splits=options.splits,
        batch_size=options.teacher_batch,
        workers=options.workers,
        on_bad_image=data.on_bad_image,
    )


def read_neighbours(
    images: ImageTable, options: DescribeOptions, space: Workspace
) -> Mapping[int, tuple[int, ...]] | None:
    """Labels of the classes that a trained run confuses with each, where the options name a run.

    They are found out once and kept: they stand in prompts, and what is asked must not change when images are added.

    Raises:
        ConfigError: the run was trained on other classes.
        StoreError: there is no finished run.
    """
    if options.confusions is None:
        return None
    from gpt4image.describe.prompts.values import most_confused
    from gpt4image.evaluate.confusion import validation_confusion
    from gpt4image.files import digest, hash_file, read_json, write_json
    from gpt4image.train.run import open_run

    run = open_run(options.confusions)
    if run.classes != images.classes:
        raise ConfigError(f"{options.confusions} was trained on other classes than those of {images.source}.")
    identity = digest(hash_file(run.layout.weights), *run.classes)
    kept = space.description_store / "confusions" / f"{identity}.json"
    if not kept.exists():
        found = most_confused(validation_confusion(run, images, space.features))
        write_json(kept, {str(label): others for label, others in found.items()})
    return {int(label): tuple(others) for label, others in read_json(kept).items()}


def run_training(
    data: DataOptions, text: GuidanceOptions, recipe: Recipe, work: Path, *, arm: str, seed: int, workers: int
) -> TrainedRun:
    """Images, and where the arm uses them descriptions and vectors, to one trained model."""
    from gpt4image.train.arms import find_arm
    from gpt4image.train.processes import make_accelerator
    from gpt4image.train.run import train_model

    uses_text = find_arm(arm).uses_text
    space = Workspace(work)
    with make_accelerator(recipe).main_process_first():
        images = open_images(data, space)
        stores, soft_labels = (
            open_guidance(images, open_descriptions(images, text, space), text, recipe, space, workers)
            if uses_text
            else ((), ())
        )
    return train_model(
        images,
        stores,
        recipe,
        space.run(arm, seed),
        soft_labels=soft_labels,
        arm=arm,
        seed=seed,
        features=space.features,
        workers=workers,
    )


def run_comparison(
    data: DataOptions, text: GuidanceOptions, recipe: Recipe, work: Path, *, seeds: int, workers: int
) -> Comparison:
    """Images and descriptions to `comparison.json` and `report.html` in the work directory."""
    from gpt4image.compare.runner import compare_arms
    from gpt4image.report import write_report
    from gpt4image.train.processes import make_accelerator

    space = Workspace(work)
    accelerator = make_accelerator(recipe)
    with accelerator.main_process_first():
        images = open_images(data, space)
        descriptions = open_descriptions(images, text, space)
        stores, soft_labels = open_guidance(images, descriptions, text, recipe, space, workers)
    comparison = compare_arms(
        images, descriptions, stores, recipe, work, soft_labels=soft_labels, seeds=range(seeds), workers=workers
    )
    if accelerator.is_main_process:
        write_report(work)
    return comparison


def run_embedding(data: DataOptions, text: TextOptions, work: Path) -> tuple[ImageTable, tuple[EmbeddingStore, ...]]:
    """The images, and the vectors of their descriptions by each text encoder; nothing is encoded twice."""
    space = Workspace(work)
    images = open_images(data, space)
    return images, open_embeddings(open_descriptions(images, text, space), text, space)


def run_encoder_comparison(data: DataOptions, text: TextOptions, work: Path) -> list[ComparedEncoder]:
    """Embed the descriptions with each text encoder, and judge a classifier on each; the best comes first.

    No image model is trained. What is embedded is kept for training.
    """
    from gpt4image.labelling import judge_encoders

    images, stores = run_embedding(data, text, work)
    return judge_encoders(images, stores, Workspace(work).labels)


def run_labelling(data: DataOptions, text: TextOptions, options: LabelOptions, work: Path) -> LabelAccount:
    """Have the texts label the training images, and write down which given labels that speaks against.

    Raises:
        ConfigError: there is no text.
    """
    from gpt4image.labelling import account_for, label_by_vectors, write_doubts

    images, stores = run_embedding(data, text, work)
    labels = label_by_vectors(
        images,
        stores,
        Workspace(work).labels("+".join(text.encoder)),
        strength=options.strength,
        folds=options.folds,
        seed=options.label_seed,
    )
    account = account_for(labels, images)
    write_doubts(labels.layout.doubtful, account.doubts)
    return account
