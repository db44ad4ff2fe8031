"""Images to a store of teacher vectors, laid out as that of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import digest, exclusive, replace_folder, save_array
from gpt4image.core.format import counted
from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.filling import Answers, OnBadImage, check_finite
from gpt4image.teachers.views import PreparedViews, ViewPlan, plan_views

BATCH_SIZE = 64


def embed_images(
    images: ImageTable,
    teacher: Teacher,
    folder: Path,
    *,
    splits: Sequence[str] = ("train",),
    batch_size: int = BATCH_SIZE,
    views: int = 1,
    seed: int = 0,
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
) -> EmbeddingStore:
    """Compute a teacher's vectors of images, or open the store that already holds them.

    Training reads the store as it reads that of texts: dataset reinforcement, paid once (Faghri et al., arXiv
    2303.08983; there a student sees the very view whose answer is stored, here an image's vectors stand for all of its
    views). Each distinct image is computed once. Views that an earlier store in the folder holds are taken from there.
    A run that was killed goes on where it was and ends in the same bytes.

    Args:
        images: the images.
        teacher: gives features.
        folder: where the store lies.
        splits: splits whose images are meant.
        batch_size: views at a time.
        views: vectors of each image: one of the picture as the teacher's evaluation sees it, the others of random
            crops, flipped half of the time; training takes them as it takes several texts.
        seed: seed of the crops.
        workers: processes that prepare views. Changes speed alone.
        on_bad_image: an image that cannot be read any more is left out and said, to be tried again next time (`skip`),
            or stops the work (`fail`).

    Raises:
        ConfigError: the teacher gives logits, or features that are no vectors; no view; an unknown split.
        DataError: there are no images in these splits.
        ImageError: an image cannot be read, where that is to stop the work; or none can.
    """
    if teacher.classes is not None:
        raise ConfigError(f"Teacher {teacher.name} gives logits, not features: label_images stores them.")
    with exclusive(folder.parent / f"{folder.name}.lock", f"the embeddings in {folder}", wait=True):
        building = EmbeddingLayout(folder.with_name(folder.name + ".building"))
        if building.manifest.exists():
            replace_folder(building.folder, folder)
        earlier = open_if_same_teacher(folder, teacher)
        plan = plan_views(images, splits, views, seed, np.load(earlier.layout.texts) if earlier else ())
        if earlier and earlier.manifest.text_hash == hash_keys(plan.keys):
            return earlier
        answers = Answers(
            teacher=teacher,
            inputs=PreparedViews(images, plan, teacher.preparation, seed),
            path=building.vectors,
            dtype="float16",
            blank=0.0,
            finish=lambda found: unit_vectors(found, teacher),
            earlier=earlier.vectors if earlier else None,
            batch_size=batch_size,
            workers=workers,
            on_bad_image=on_bad_image,
        )
        answers.fill(f"Embed {counted(len(plan), 'view')}")
        finish_store(plan, answers.present(), teacher, building)
        replace_folder(building.folder, folder)
    return EmbeddingStore(folder)


def open_if_same_teacher(folder: Path, teacher: Teacher) -> EmbeddingStore | None:
    """The store in a folder if it is whole and of this teacher."""
    try:
        store = EmbeddingStore(folder)
    except StoreError:
        return None
    known = store.manifest
    same = (known.kind, known.encoder, known.revision) == ("images", teacher.name, teacher.revision)
    return store if same else None


def hash_keys(keys: np.ndarray) -> str:
    """Hash of a set of views, whatever their order."""
    return digest(np.sort(keys).tobytes())


def unit_vectors(features: np.ndarray, teacher: Teacher) -> np.ndarray:
    """Features [B, D] at length 1. ConfigError when some are not finite, or zero."""
    lengths = np.linalg.norm(check_finite(features, teacher), axis=1, keepdims=True)
    if not lengths.all():
        raise ConfigError(
            f"Teacher {teacher.name} gives features that are zero: choose one whose weights were trained."
        )
    return np.asarray(features / lengths, dtype=np.float32)


def finish_store(plan: ViewPlan, rows: np.ndarray, teacher: Teacher, layout: EmbeddingLayout) -> None:
    """Write the index of the rows [K] that hold a vector and, last, the manifest."""
    keys = np.zeros_like(plan.keys)
    keys[rows] = plan.keys[rows]
    rows = rows[np.lexsort((plan.views[rows], plan.ids[rows]))]
    ids, starts = np.unique(plan.ids[rows], return_index=True)
    save_array(layout.texts, keys)
    save_array(layout.ids, ids)
    save_array(layout.offsets, np.append(starts, len(rows)).astype(np.int64))
    save_array(layout.rows, rows.astype(np.int64))
    EmbeddingManifest(
        encoder=teacher.name,
        revision=teacher.revision,
        width=teacher.width,
        max_tokens=0,
        long_text="",
        text_hash=hash_keys(plan.keys[rows]),
        images=len(ids),
        distinct_texts=len(plan),
        texts=len(rows),
        truncated=0,
        longest={},
        kind="images",
    ).save(layout.manifest)
