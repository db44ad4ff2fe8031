"""The teachers that training names: opened where they have answered already, else made to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.workdir import WorkDir
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels.store import SoftLabels
from gpt4image.teachers.base import load_teacher
from gpt4image.teachers.embedding import embed_images
from gpt4image.teachers.labels import label_images


class Taught(NamedTuple):
    """What teachers give training.

    Attributes:
        stores: vectors to align with, one store a teacher.
        soft_labels: labels of the teachers that are runs.
    """

    stores: tuple[EmbeddingStore, ...] = ()
    soft_labels: tuple[SoftLabels, ...] = ()


def gives_labels(name: str) -> bool:
    """Whether the teacher of that name labels images, rather than gives vectors to align with.

    >>> gives_labels("run:work/runs/baseline-0"), gives_labels("timm:resnet50")
    (True, False)
    """
    return name.startswith("run:")


def open_teachers(images: ImageTable, names: Sequence[str], workdir: WorkDir, *, workers: int = 0) -> Taught:
    """What the named teachers give, from the work directory or computed on the way.

    Raises:
        ConfigError: a teacher is named twice, unknown or of other classes; or its vectors are there, made with settings
            that its name does not tell, and do not cover the training images.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"Name each vision teacher once, not: {' '.join(names)}.")
    return Taught(
        tuple(open_vectors(images, name, workdir, workers) for name in names if not gives_labels(name)),
        tuple(
            label_images(images, load_teacher(name), workdir.labels(name), workers=workers)
            for name in names
            if gives_labels(name)
        ),
    )


def open_vectors(images: ImageTable, name: str, workdir: WorkDir, workers: int = 0) -> EmbeddingStore:
    """A teacher's vectors: those that are there if they cover the training images, whatever weights made them."""
    folder = workdir.image_embeddings(name)
    there = open_if_named(workdir, name)
    if there and (there.find(images.ids[images.split("train")]) >= 0).all():
        return there
    teacher = load_teacher(name)
    several = there is not None and there.manifest.texts > there.manifest.images
    if there and (several or there.manifest.revision != teacher.revision):
        raise ConfigError(
            f"{folder} lacks some of the training images, and was made with other weights, another size or more views "
            f"than {name} has by itself. Bring it up to date: gpt4image embed images DATA --teacher {name}, with the "
            "same --teacher-checkpoint, --teacher-size and --views as before; or delete the folder."
        )
    return embed_images(images, teacher, folder, workers=workers)


def open_if_named(workdir: WorkDir, name: str) -> EmbeddingStore | None:
    """The vectors in the work directory if they are whole and of the teacher of that name."""
    try:
        store = EmbeddingStore(workdir.image_embeddings(name))
    except StoreError:
        return None
    return store if (store.manifest.kind, store.manifest.encoder) == ("images", name) else None
