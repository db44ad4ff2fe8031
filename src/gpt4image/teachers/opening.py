"""The outputs of the teachers that a training run names: read from the work directory, or computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpt4image.core.errors import ConfigError
from gpt4image.core.workdir import WorkDir
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.soft_labels.store import SoftLabels
from gpt4image.teachers.base import find_kind, load_teacher
from gpt4image.teachers.embedding import embed_images, open_vectors_of
from gpt4image.teachers.labels import label_images


class TeacherOutputs(NamedTuple):
    """The outputs of teachers for training.

    Attributes:
        stores: vectors to align with, one store per teacher.
        soft_labels: soft labels of the teachers that return logits, such as runs.
    """

    stores: tuple[EmbeddingStore, ...] = ()
    soft_labels: tuple[SoftLabels, ...] = ()


def gives_labels(name: str) -> bool:
    """Return whether the teacher of a name gives soft labels instead of vectors.

    >>> gives_labels("run:work/runs/baseline-0"), gives_labels("timm:resnet50")
    (True, False)
    """
    return find_kind(name)[0].gives_labels


def open_teachers(images: ImageTable, names: Sequence[str], workdir: WorkDir, *, workers: int = 0) -> TeacherOutputs:
    """Open or compute the outputs of the named teachers.

    Raises:
        ConfigError: a teacher is named twice, unknown or has other classes; or vectors in the work directory lack
            training images and were made with settings that the name does not include.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"Name each vision teacher once, not: {' '.join(names)}.")
    return TeacherOutputs(
        tuple(open_vectors(images, name, workdir, workers) for name in names if not gives_labels(name)),
        tuple(
            label_images(images, load_teacher(name), workdir.labels(name), workers=workers)
            for name in names
            if gives_labels(name)
        ),
    )


def open_vectors(images: ImageTable, name: str, workdir: WorkDir, workers: int = 0) -> EmbeddingStore:
    """Open a teacher's vectors if they cover the training images, from whatever weights; else compute them."""
    folder = workdir.image_embeddings(name)
    there = open_vectors_of(name, folder)
    if there and (there.find(images.ids[images.split("train")]) >= 0).all():
        return there
    teacher = load_teacher(name)
    several = there is not None and there.manifest.texts > there.manifest.images
    if there and (several or there.manifest.revision != teacher.revision):
        raise ConfigError(
            f"{folder} lacks some of the training images, and was made with other weights, another size or more views "
            f"than the defaults of {name}. Update it: gpt4image embed images DATA --work WORK --teacher {name}, with "
            "the same weights, size and number of views as before; or delete the folder."
        )
    return embed_images(images, teacher, folder, workers=workers)
