"""Soft labels on disk: a probability for each class, found by image id, read through a memory map by every process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from gpt4image.embed.store import find_sorted
from gpt4image.errors import ConfigError, StoreError
from gpt4image.labelling.records import LabelManifest

MAKE_THEM = "Make them: gpt4image label DATA --work WORK."
MAKE_AGAIN = "Delete the folder and make the labels again: gpt4image label DATA --work WORK."


@dataclass(frozen=True)
class LabelLayout:
    """Where the parts of a store of soft labels lie.

    Attributes:
        folder: the store's folder.
    """

    folder: Path

    @property
    def manifest(self) -> Path:
        """What the labels are; written last, so a store with a manifest is whole."""
        return self.folder / "manifest.json"

    @property
    def ids(self) -> Path:
        """Image ids in rising order, S32 [N]."""
        return self.folder / "ids.npy"

    @property
    def logits(self) -> Path:
        """Log-probabilities at temperature 1, float16 [N, C]."""
        return self.folder / "logits.npy"

    @property
    def doubtful(self) -> Path:
        """Images whose given label is doubted, as a table; there once it was asked for."""
        return self.folder / "doubtful.tsv"

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
