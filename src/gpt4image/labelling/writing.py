"""Soft labels written: whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from gpt4image.embed.runner import replace_folder, save_array
from gpt4image.errors import ConfigError, StoreError
from gpt4image.files import exclusive
from gpt4image.labelling.calibration import blocks
from gpt4image.labelling.records import LabelManifest, LabelOrigin, LabelQuality
from gpt4image.labelling.soft_labels import LabelLayout, SoftLabels, check_temperature

LOWEST = -60_000.0
"""Log-probability of an impossible class: the lowest that float16 holds, roughly."""


def write_soft_labels(
    folder: Path,
    ids: Sequence[str | bytes] | np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    origin: LabelOrigin,
    *,
    temperature: float = 1.0,
    quality: LabelQuality | None = None,
) -> SoftLabels:
    """Write a store of soft labels, in place of what is there: from any classifier's logits.

    A process that is killed leaves the earlier store, or none, or the whole new one.

    Args:
        folder: where it will lie.
        ids: image ids [N], in any order, each once.
        logits: float [N, C], in the same order; may be a memory map. -inf says impossible.
        classes: names of the C classes.
        origin: what the labels were made from.
        temperature: the temperature that suits them best.
        quality: how good they are, where that was measured.

    Raises:
        BusyError: another process writes there.
        ConfigError: an id comes twice, shapes do not match, a temperature that is not above 0.
        StoreError: a row's logits have no finite number, or NaN or +inf.
    """
    layout = LabelLayout(folder)
    with exclusive(layout.lock, f"the soft labels in {folder}"):
        return replace_labels(layout, ids, logits, classes, origin, temperature, quality)


def replace_labels(
    layout: LabelLayout,
    ids: Sequence[str | bytes] | np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    origin: LabelOrigin,
    temperature: float,
    quality: LabelQuality | None,
) -> SoftLabels:
    """`write_soft_labels` for a caller that holds the lock."""
    check_temperature(temperature)
    sorted_ids, order = np.unique(np.asarray(ids, dtype="S32"), return_index=True)
    if len(order) != len(ids):
        raise ConfigError(
            f"{len(ids) - len(order):,} image ids come more than once. Give each image one row of logits."
        )
    if logits.shape != (len(ids), len(classes)):
        raise ConfigError(
            f"Logits of shape {logits.shape} do not fit {len(ids):,} images and {len(classes):,} classes."
        )
    building = LabelLayout(layout.building)
    shutil.rmtree(building.folder, ignore_errors=True)
    building.folder.mkdir(parents=True)
    save_array(building.ids, sorted_ids)
    write_logits(building.logits, logits, order)
    LabelManifest(
        origin=origin, classes=tuple(classes), images=len(ids), temperature=temperature, quality=quality
    ).save(building.manifest)
    replace_folder(building.folder, layout.folder)
    return SoftLabels(layout.folder)


def write_logits(path: Path, logits: np.ndarray, order: np.ndarray) -> None:
    """Write logits [N, C] in an order [N], as log-probabilities: float16 is finest near 0, where likely ones are."""
    if not logits.size:
        return save_array(path, logits.astype(np.float16))
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=logits.shape)
    for places in blocks(np.arange(len(order))):
        with np.errstate(invalid="ignore"):
            part = log_softmax(logits[order[places]].astype(np.float64), axis=1)
        if np.isnan(part).any():
            raise StoreError(
                "Logits hold values that are not numbers, or infinite. Find the images that the classifier failed on."
            )
        stored[places] = np.maximum(part, LOWEST)
    stored.flush()
    return None


def finish_interrupted(layout: LabelLayout) -> None:
    """Put a store in its place whose writer was killed just before that."""
    if LabelLayout(layout.building).manifest.exists():
        replace_folder(layout.building, layout.folder)
