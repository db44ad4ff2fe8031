"""Embed images with a teacher into a store, in the same format as that of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import exclusive, replace_folder, save_array
from gpt4image.core.format import counted
from gpt4image.embed.store import EmbeddingLayout, EmbeddingManifest, EmbeddingStore
from gpt4image.images.load import OnBadImage
from gpt4image.images.table import ImageTable
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.filling import BATCH_SIZE, Loading, Outputs, check_finite
from gpt4image.teachers.views import PreparedViews, ViewPlan, find_places, hash_keys, plan_views, seeing


def embed_images(
    images: ImageTable,
    teacher: Teacher,
    folder: str | Path,
    *,
    splits: Sequence[str] = ("train",),
    batch_size: int = BATCH_SIZE,
    views: int = 1,
    seed: int = 0,
    workers: int = 0,
    on_bad_image: OnBadImage = "skip",
) -> EmbeddingStore:
    """Compute a teacher's vectors of images, or open the store that already holds them.

    Training reads the store like that of texts. This is dataset reinforcement, computed once (Faghri et al., arXiv
    2303.08983; there a student sees the very view whose output is stored, here an image's vectors stand for all of its
    views). Each distinct image is computed once, and views in an earlier store in the folder are copied. An interrupted
    run resumes and gives the same bytes.

    Args:
        images: the images.
        teacher: returns features.
        folder: the store's folder.
        splits: splits whose images are embedded.
        batch_size: views per batch.
        views: vectors per image: one of the image as the teacher's evaluation sees it, the others of random crops,
            flipped half of the time. Training uses them like several texts.
        seed: seed of the crops.
        workers: processes that prepare views; they affect only the speed.
        on_bad_image: skip an unreadable image with a warning, and try it again next time (`skip`), or stop (`fail`).

    Raises:
        ConfigError: the teacher returns logits or invalid features, there is no view, or a split is unknown.
        DataError: there are no images in these splits.
        ImageError: an image is unreadable, with `on_bad_image` "fail"; or all are.
    """
    folder = Path(folder)
    if teacher.classes is not None:
        raise ConfigError(f"Teacher {teacher.name} gives logits, not features: label_images stores them.")
    teacher = seeing(teacher, images)
    loading = Loading(batch_size, workers, on_bad_image)
    with exclusive(folder.parent / f"{folder.name}.lock", f"the embeddings in {folder}", wait=True):
        building = EmbeddingLayout(folder.with_name(folder.name + ".building"))
        if building.manifest.exists():  # complete; the process was killed before the rename
            replace_folder(building.folder, folder)
        earlier = open_vectors_of(teacher.name, folder)
        if earlier and earlier.manifest.revision != teacher.revision:
            earlier = None
        stored = np.load(earlier.layout.texts) if earlier else ()
        plan = plan_views(images, find_places(images, splits), views, seed, stored)
        if earlier and earlier.manifest.text_hash == hash_keys(plan.keys):
            return earlier
        outputs = Outputs(
            teacher=teacher,
            inputs=PreparedViews(images, plan, teacher.preparation, seed),
            path=building.vectors,
            dtype="float16",
            blank=0.0,
            finish=lambda found: unit_vectors(found, teacher),
            earlier=earlier.vectors if earlier else None,
            loading=loading,
        )
        write_index(plan, outputs.fill(f"Embed {counted(len(plan), 'view')}"), teacher, building)
        replace_folder(building.folder, folder)
    return EmbeddingStore(folder)


def open_vectors_of(name: str, folder: Path) -> EmbeddingStore | None:
    """Open the store in a folder; None if it is missing, incomplete, or that of another teacher."""
    try:
        store = EmbeddingStore(folder)
    except StoreError:
        return None
    return store if (store.manifest.kind, store.manifest.encoder) == ("images", name) else None


def unit_vectors(features: np.ndarray, teacher: Teacher) -> np.ndarray:
    """Scale features [B, D] to length 1. ConfigError if some are not finite, or zero."""
    lengths = np.linalg.norm(check_finite(features, teacher), axis=1, keepdims=True)
    if not lengths.all():
        raise ConfigError(
            f"Teacher {teacher.name} returns features that are zero: choose one whose weights were trained."
        )
    return np.asarray(features / lengths, dtype=np.float32)


def write_index(plan: ViewPlan, rows: np.ndarray, teacher: Teacher, layout: EmbeddingLayout) -> None:
    """Write the index of the rows that hold a vector, int64 [K], and then the manifest."""
    keys = np.zeros_like(plan.keys)  # an empty key marks a row without a vector
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
