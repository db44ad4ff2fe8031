"""Soft labels on disk: a probability for each class, found by image id, read through a memory map by every process."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import log_softmax, softmax

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout, exclusive, replace_folder, save_array
from gpt4image.core.record import Record
from gpt4image.embed.store import find_sorted
from gpt4image.probing.calibration import LabelQuality, blocks

LabelKind = Literal["text", "images", "classifier"]


"""What the labels were made from: vectors of texts, vectors of images, or the logits of a stronger classifier."""


class LabelSource(Record):
    """One thing that the labels were made from.

    Attributes:
        name: encoder or classifier, as the user names it.
        revision: hash of its weights.
        content: hash of what it was given, such as image ids and texts.
    """

    name: str
    revision: str
    content: str = ""


class LabelOrigin(Record):
    """All that decides the labels; the same origin gives the same labels.

    Attributes:
        kind: what they were made from.
        sources: encoders or classifiers, in the order in which their vectors were joined.
        fitted_to: hash of the image ids and labels that were learned from, empty where nothing was.
        folds: number of folds, None where labels are not cross-fitted.
        strength: inverse strength of the regularisation, likewise.
        seed: seed of the folds, likewise.
    """

    kind: LabelKind
    sources: tuple[LabelSource, ...]
    fitted_to: str = ""
    folds: int | None = None
    strength: float | None = None
    seed: int | None = None


class LabelManifest(Record):
    """What a folder of soft labels holds.

    Attributes:
        origin: what decides the labels.
        classes: class names, in the order of the columns.
        images: number N of images.
        temperature: divides the logits before the softmax where no other is asked for.
        quality: how good the labels are, None where that was not measured.
    """

    origin: LabelOrigin
    classes: tuple[str, ...]
    images: int
    temperature: float
    quality: LabelQuality | None


MAKE_THEM = "Make them: gpt4image label DATA --work WORK."


MAKE_AGAIN = "Delete the folder and make the labels again: gpt4image label DATA --work WORK."


class LabelLayout(Layout):
    """Files of a soft label store."""

    manifest = File("manifest.json")
    """What the labels are; written last, so a store with a manifest is whole."""
    ids = File("ids.npy")
    """Image ids in rising order, S32 [N]."""
    logits = File("logits.npy")
    """Log-probabilities at temperature 1, float16 [N, C]."""
    doubtful = File("doubtful.tsv")
    """Images whose given label is doubted, as a table; there once it was asked for."""

    @property
    def lock(self) -> Path:
        """Lock file of whoever writes the store."""
        return self.folder.with_name(self.folder.name + ".lock")

    @property
    def building(self) -> Path:
        """Where a store lies while it is written."""
        return self.folder.with_name(self.folder.name + ".building")

    @property
    def scratch(self) -> Path:
        """What is needed only while labels are made."""
        return self.folder.with_name(self.folder.name + ".scratch")


class SoftLabels:
    """Class probabilities by image id. Opens in no time and copies nothing, whatever its size.

    Args:
        folder: a finished store.

    Raises:
        StoreError: there is no finished store in the folder, or it is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.layout = LabelLayout(Path(folder))
        if not self.layout.manifest.exists():
            raise StoreError(f"{folder} holds no finished soft labels. {MAKE_THEM}")
        try:
            self.manifest = LabelManifest.load(self.layout.manifest)
            self._ids: np.ndarray = np.load(self.layout.ids, mmap_mode="r")
            self._logits: np.ndarray = np.load(self.layout.logits, mmap_mode="r")
        except (OSError, ValueError, EOFError, StoreError) as error:
            raise StoreError(f"{self.layout.folder} is damaged ({str(error).rstrip('.')}). {MAKE_AGAIN}") from None
        if (self._ids.shape, self._logits.shape) != ((len(self),), (len(self), len(self.classes))):
            raise StoreError(f"{self.layout.folder} does not fit its manifest. {MAKE_AGAIN}")

    def __getstate__(self) -> Path:
        return self.layout.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.manifest.images

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.manifest.classes

    @property
    def ids(self) -> np.ndarray:
        """Image ids in rising order, S32 [N]."""
        return self._ids

    def check(self, classes: Sequence[str]) -> None:
        """StoreError when the labels are of other classes than these, or in another order."""
        if self.classes != tuple(classes):
            raise StoreError(
                f"The soft labels in {self.layout.folder} are of other classes ({len(self.classes):,}; now "
                f"{len(classes):,}) or in another order. {MAKE_AGAIN}"
            )

    def find(self, ids: Sequence[str | bytes] | np.ndarray) -> np.ndarray:
        """Positions of image ids in the store, int64 [B]; -1 for images without a soft label."""
        return find_sorted(self._ids, np.asarray(ids, dtype="S32"))

    def take(self, positions: np.ndarray, temperature: float | None = None) -> np.ndarray:
        """Probabilities of the images at positions that `find` found.

        Args:
            positions: int [B].
            temperature: divides the logits; higher is softer. The one in the manifest when not given.

        Returns:
            float32 [B, C]; rows of zeros where a position is -1.

        Raises:
            ConfigError: the temperature is not above 0.
        """
        temperature = self.manifest.temperature if temperature is None else temperature
        check_temperature(temperature)
        found = positions >= 0
        probabilities = np.zeros((len(positions), len(self.classes)), dtype=np.float32)
        probabilities[found] = softmax(self._logits[positions[found]].astype(np.float32) / temperature, axis=1)
        return probabilities


def check_temperature(temperature: float) -> None:
    """ConfigError when it is not above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(
            f"A temperature of soft labels must be above 0, not {temperature}. 1 leaves them as they are."
        )


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
