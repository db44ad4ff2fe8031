"""How far a classifier can be taken at its word, measured on images that it neither labels nor has learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt4image.files import digest
from gpt4image.images.table import ImageTable
from gpt4image.labelling.calibration import fit_temperature, measure_quality
from gpt4image.labelling.records import LabelQuality
from gpt4image.teachers.views import first_places


class HeldOut(NamedTuple):
    """Labelled validation images that lie in none of the splits that are labelled, each once.

    Attributes:
        places: positions in the table, int64 [n].
        labels: their classes, int32 [n].
        content: hash of their ids and classes; empty where there are none.
    """

    places: np.ndarray
    labels: np.ndarray
    content: str


def hold_out(images: ImageTable, splits: Sequence[str]) -> HeldOut:
    """Find them; none where validation images are labelled themselves."""
    places = images.split("validation")
    if len(places):
        places = first_places(images, ("validation",))
        labelled = images.ids[first_places(images, splits)]
        places = places[(images.labels[places] >= 0) & ~np.isin(images.ids[places], labelled)]
    labels = images.labels[places]
    return HeldOut(places, labels, digest(images.ids[places].tobytes(), labels.tobytes()) if len(places) else "")


def judge(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> tuple[float, LabelQuality]:
    """The temperature, fitted where none is given, and the quality at it.

    Args:
        logits: float [n, C], n above 0.
        labels: int [n].
        temperature: divides the logits.
    """
    chosen = fit_temperature(logits, labels) if temperature is None else temperature
    return chosen, measure_quality(logits, labels, chosen)
