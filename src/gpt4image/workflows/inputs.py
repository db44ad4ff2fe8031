"""Open what a training learns from: texts, vectors, teachers, soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.core.options import (
    GuidanceOptions,
    TextOptions,
)
from gpt4image.core.workdir import WorkDir

if TYPE_CHECKING:
    from gpt4image.descriptions import DescriptionSet
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.soft_labels import SoftLabels
    from gpt4image.teachers.opening import TeacherOutputs
    from gpt4image.train.recipe import Recipe


NO_TEXT = "none"


"""In place of a source of texts: teachers alone guide the training."""


DEFAULT_COLUMN = "description"


"""Text column that is read where no other text is named and nothing was described."""


def open_descriptions(images: ImageTable, options: TextOptions, workdir: WorkDir) -> DescriptionSet:
    """Read the descriptions, say how far they cover the images, and keep them in the work directory."""
    descriptions = find_descriptions(images, options, workdir)
    if options.text == NO_TEXT:
        return descriptions
    console.say(descriptions.coverage.line())
    descriptions.save(workdir.descriptions)
    return descriptions


def find_descriptions(images: ImageTable, options: TextOptions, workdir: WorkDir) -> DescriptionSet:
    """The texts that the options name: a column, a file, or what describers have written into the work directory.

    Raises:
        ConfigError: a prompt or model is chosen that no text has, or of texts that describers did not write.
        DescriptionError: the source is unknown or broken.
    """
    from gpt4image.descriptions import DescriptionStore, described_set, load_descriptions
    from gpt4image.descriptions.description_set import join_texts
    from gpt4image.descriptions.exchange.rows import store_folder

    if options.text == NO_TEXT:
        return join_texts(images, (), 0, "none")
    elsewhere = options.text and store_folder(Path(options.text))
    store = DescriptionStore(elsewhere or workdir.description_store)
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
            f"{workdir.folder} holds no descriptions, and {images.source} has no column {DEFAULT_COLUMN!r}. "
            "Write some: gpt4image describe; or name texts, or another work directory that holds some: --text."
        )
    return load_descriptions(
        images,
        options.text or DEFAULT_COLUMN,
        text_column=options.text_column,
        orphan_texts=options.orphan_texts,
    )


def open_embeddings(descriptions: DescriptionSet, options: TextOptions, workdir: WorkDir) -> tuple[EmbeddingStore, ...]:
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
            workdir.embeddings(name),
            long_text=options.long_text,
            batch_size=options.embed_batch,
        )
        for name in options.encoder
    )


def open_teacher_outputs(
    images: ImageTable, options: GuidanceOptions, recipe: Recipe, workdir: WorkDir, workers: int = 0
) -> TeacherOutputs:
    """What the named vision teachers give, computed where it is not there yet.

    Raises:
        ConfigError: a run is named as a teacher, but the recipe mixes in no soft labels.
    """
    from gpt4image.teachers.opening import gives_labels, open_teachers

    idle = [name for name in options.teachers if gives_labels(name)]
    if idle and not recipe.soft_labels:
        raise ConfigError(f"{idle[0]} teaches by soft labels, and the recipe mixes none in: --soft-labels SHARE.")
    return open_teachers(images, options.teachers, workdir, workers=workers)


def open_guidance(
    images: ImageTable,
    descriptions: DescriptionSet,
    options: GuidanceOptions,
    recipe: Recipe,
    workdir: WorkDir,
    workers: int = 0,
) -> tuple[tuple[EmbeddingStore, ...], tuple[SoftLabels, ...]]:
    """Vectors of the texts, then those of teachers; and soft labels, of teachers that are runs or else of the texts."""
    outputs = open_teacher_outputs(images, options, recipe, workdir, workers)
    stores = open_embeddings(descriptions, options, workdir)
    soft_labels = outputs.soft_labels or open_soft_labels(images, stores, recipe, workdir)
    return (*stores, *outputs.stores), soft_labels


def open_soft_labels(
    images: ImageTable, stores: Sequence[EmbeddingStore], recipe: Recipe, workdir: WorkDir
) -> tuple[SoftLabels, ...]:
    """Have a classifier on the texts' vectors label the training images, where the recipe mixes its labels in.

    Labels that `gpt4image label` has made of these texts with other settings are taken as they are.
    """
    if not recipe.soft_labels:
        return ()
    if not stores:
        raise ConfigError("Soft labels come from descriptions, or from a run as a teacher: --teachers run:FOLDER.")
    from gpt4image.soft_labels import existing_labels, label_by_vectors

    folder = workdir.labels("+".join(store.manifest.encoder for store in stores))
    return (existing_labels(images, stores, folder) or label_by_vectors(images, stores, folder),)
