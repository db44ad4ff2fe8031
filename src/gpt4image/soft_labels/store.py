"""The soft label store: class probabilities by image id, read through a memory map that all processes share."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import log_softmax, softmax

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout, Sibling, exclusive, replace_folder, save_array
from gpt4image.core.record import Record, ShareEstimate
from gpt4image.descriptions.store.latest import find_sorted
from gpt4image.probing.calibration import LabelQuality, blocks

LabelKind = Literal["text", "images", "classifier", "picks"]
"""What labels are made from: vectors of texts or images, logits of a stronger classifier, or an LLM's picks."""

CREATE = "Create them: gpt4image label DATA --work WORK."
CREATE_AGAIN = "Delete the folder and create the labels again: gpt4image label DATA --work WORK."
LOWEST = -60_000.0  # log-probability that is stored for an impossible class: about the lowest float16


class LabelSource(Record):
    """One encoder or classifier behind the labels.

    Attributes:
        name: its name, as the user writes it.
        revision: hash of its weights.
        content: hash of its input, such as image ids and texts.
    """

    name: str
    revision: str
    content: str = ""


class LabelOrigin(Record):
    """Everything that determines the labels: the same origin gives the same labels.

    Attributes:
        kind: what they are made from.
        sources: encoders or classifiers, in the order in which their vectors are concatenated.
        fitted_to: hash of the image ids and labels of the training rows; empty where nothing was fitted.
        folds: number of folds; None without cross-fitting.
        strength: inverse strength of the regularisation; None without cross-fitting, or if cross-validation chose it.
        seed: seed of the folds; None without cross-fitting.
        settings: hash of everything else that text labels depend on, such as the texts of the classes.
    """

    kind: LabelKind
    sources: tuple[LabelSource, ...]
    fitted_to: str = ""
    folds: int | None = None
    strength: float | None = None
    seed: int | None = None
    settings: str = ""


class LabelEstimate(Record):
    """Estimated quality of text labels, before any training on them.

    Attributes:
        method: how the labeller was fitted.
        labelled: training and validation images with a given label.
        unlabelled: training images without one.
        abstained: images that get no label, because no class is likely enough.
        accuracy: share of right labels among unlabelled images, or among all if given ones are replaced; None if there
            are too few given labels to measure it.
        per_class: the same for each class's images; None for a class without a given label.
        wrong: share of wrong labels among the given ones; None if it cannot be estimated.
        transition: row k holds how often images of class k are labelled as each class; None if not estimated.
        replaced: whether given labels are replaced by the posterior of the true class.
        changed: images whose likeliest class is not the given one.
        several: images with several labels, which keep them.
        picked: images for which an LLM picked a class.
        picks: share of the LLM's picks for labelled images that are right; None without such picks.
    """

    method: str
    labelled: int
    unlabelled: int
    abstained: int
    accuracy: ShareEstimate | None
    per_class: tuple[ShareEstimate | None, ...]
    wrong: ShareEstimate | None
    transition: tuple[tuple[float, ...], ...] | None
    replaced: bool
    changed: int
    several: int = 0
    picked: int = 0
    picks: ShareEstimate | None = None


class LabelManifest(Record):
    """Provenance, size and quality of a soft label store.

    Attributes:
        origin: what determines the labels.
        classes: names of the C classes, in the order of the columns.
        images: number N of images.
        temperature: divides the logits before the softmax, unless a caller passes another.
        quality: quality of the labels; None where it was not measured.
        estimate: estimated quality of text labels, which replace given labels in training and validation; None for soft
            labels, which are mixed with the given ones.
    """

    origin: LabelOrigin
    classes: tuple[str, ...]
    images: int
    temperature: float
    quality: LabelQuality | None
    estimate: LabelEstimate | None = None


class LabelLayout(Layout):
    """Files of a soft label store, and the temporary ones beside its folder."""

    manifest = File("manifest.json")
    """Written last, so a store that has one is complete."""
    ids = File("ids.npy")
    """Image ids in ascending order, S32 [N]."""
    logits = File("logits.npy")
    """Log-probabilities at temperature 1, float16 [N, C]."""
    doubtful = File("doubtful.tsv")
    """Table of likely label errors; written on request."""
    transition = File("transition.tsv")
    """Table of the transition matrix of the given labels; written on request, for text labels."""
    lock = Sibling(".lock")
    """Lock file of the writer."""
    building = Sibling(".building")
    """The store while it is written; renamed when complete."""
    scratch = Sibling(".scratch")
    """Temporary arrays."""


class SoftLabels:
    """Class probabilities by image id. Stores of any size open instantly, without copying.

    Args:
        folder: a complete store.

    Raises:
        StoreError: the folder holds no complete store, or a damaged one.
    """

    def __init__(self, folder: Path | str) -> None:
        self.layout = LabelLayout(Path(folder))
        if not self.layout.manifest.exists():
            raise StoreError(f"{folder} holds no complete soft labels. {CREATE}")
        try:
            self.manifest = LabelManifest.load(self.layout.manifest)
            self.ids: np.ndarray = np.load(self.layout.ids, mmap_mode="r")  # ascending, S32 [N]
            self._logits: np.ndarray = np.load(self.layout.logits, mmap_mode="r")
        except (OSError, ValueError, EOFError, StoreError) as error:
            raise StoreError(f"{self.layout.folder} is damaged ({str(error).rstrip('.')}). {CREATE_AGAIN}") from None
        self.classes = self.manifest.classes
        if (self.ids.shape, self._logits.shape) != ((len(self),), (len(self), len(self.classes))):
            raise StoreError(f"{self.layout.folder} does not match its manifest. {CREATE_AGAIN}")

    # Data loader workers receive the path, not the arrays, and map the same files.
    def __getstate__(self) -> Path:
        return self.layout.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.manifest.images

    def check(self, classes: Sequence[str]) -> None:
        """Raise StoreError unless the labels have these classes, in this order."""
        if self.classes != tuple(classes):
            raise StoreError(
                f"The soft labels in {self.layout.folder} have other classes ({len(self.classes):,}; now "
                f"{len(classes):,}) or another order. {CREATE_AGAIN}"
            )

    def find(self, ids: Sequence[str | bytes] | np.ndarray) -> np.ndarray:
        """Return the positions of image ids [B] in the store, int64 [B]; -1 for images without a soft label."""
        return find_sorted(self.ids, np.asarray(ids, dtype="S32"))

    def take(self, positions: np.ndarray, temperature: float | None = None) -> np.ndarray:
        """Return the probabilities of images.

        Args:
            positions: positions from `find`, int [B].
            temperature: divides the logits; higher is softer. By default that of the manifest.

        Returns:
            float32 [B, C]; rows of zeros where the position is -1.

        Raises:
            ConfigError: the temperature is not above 0.
        """
        temperature = self.manifest.temperature if temperature is None else temperature
        check_temperature(temperature)
        found = positions >= 0
        probabilities = np.zeros((len(positions), len(self.classes)), dtype=np.float32)
        probabilities[found] = softmax(self._logits[positions[found]].astype(np.float32) / temperature, axis=1)
        return probabilities


def open_if_complete(folder: Path) -> SoftLabels | None:
    """Open the store in a folder; None if there is no complete one."""
    try:
        return SoftLabels(folder)
    except StoreError:
        return None


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
    """Write a store from the logits of any classifier, replacing an earlier one.

    If the process is killed, the folder holds the earlier store, none, or the complete new one.

    Args:
        folder: the store's folder.
        ids: image ids [N], in any order, without duplicates.
        logits: float [N, C] in the same order; may be a memory map. -inf means impossible.
        classes: names of the C classes.
        origin: everything that determines the labels.
        temperature: the temperature that fits them best.
        quality: their quality, if measured.

    Raises:
        BusyError: another process is writing there.
        ConfigError: duplicate ids, shapes that do not match, or a temperature that is not above 0.
        StoreError: a row of logits has no finite number, or holds NaN or +inf.
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
    estimate: LabelEstimate | None = None,
) -> SoftLabels:
    """Do what `write_soft_labels` does, for a caller that holds the lock."""
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
    manifest = LabelManifest(
        origin=origin,
        classes=tuple(classes),
        images=len(ids),
        temperature=temperature,
        quality=quality,
        estimate=estimate,
    )
    manifest.save(building.manifest)
    replace_folder(building.folder, layout.folder)
    return SoftLabels(layout.folder)


def write_logits(path: Path, logits: np.ndarray, order: np.ndarray) -> None:
    """Write logits [N, C] as log-probabilities, in the given order [N].

    float16 is finest near 0, where the log-probabilities of likely classes are.
    """
    if not logits.size:  # a memory map cannot be empty
        save_array(path, logits.astype(np.float16))
        return
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


def finish_interrupted(layout: LabelLayout) -> None:
    """Move a complete store into place if its writer was killed just before doing so."""
    if LabelLayout(layout.building).manifest.exists():
        replace_folder(layout.building, layout.folder)


def check_temperature(temperature: float) -> None:
    """Raise ConfigError unless the temperature is above 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(
            f"The temperature of soft labels must be above 0, not {temperature}. 1 leaves them as they are."
        )
