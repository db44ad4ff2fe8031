"""The views of images that a teacher sees: their choice, their order, and the tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gpt4image.core.errors import ConfigError, DataError, ImageError
from gpt4image.core.files import digest
from gpt4image.images import SPLITS
from gpt4image.images.decode import decode
from gpt4image.images.scan import image_id
from gpt4image.images.table import ImageTable
from gpt4image.teachers.base import Teacher
from gpt4image.teachers.preparation import CROP_SCALE, Preparation
from gpt4image.train.transforms import CROP_RATIO


@dataclass(frozen=True)
class ViewPlan:
    """Views in the order of computation: known ones first, then in the order of the table.

    Views to compute are consecutive if they belong to one image.

    Attributes:
        keys: hash that identifies each view, S32 [M].
        ids: id of its image, S32 [M].
        places: position of its image in the table, int64 [M].
        views: its number among the views of its image, int64 [M]; 0 is the image as evaluation sees it.
        known: its row in an earlier array, int64 [M]; -1 if it has to be computed.
    """

    keys: np.ndarray
    ids: np.ndarray
    places: np.ndarray
    views: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def plan_views(
    images: ImageTable, places: np.ndarray, views: int = 1, seed: int = 0, stored: Sequence[bytes] | np.ndarray = ()
) -> ViewPlan:
    """Plan the order in which to compute the views of images; the same input gives the same plan.

    Args:
        images: the images.
        places: positions of distinct images in the table, int64 [N] (`find_places`).
        views: views per image.
        seed: seed of the random views.
        stored: keys of the views in an earlier array, in its order; empty keys mark rows without a view.

    Raises:
        ConfigError: fewer than one view, or a seed below 0.
    """
    if views < 1 or seed < 0:
        raise ConfigError(f"Views must be 1 or more and their seed 0 or more, not {views} and {seed}.")
    ids, numbers = np.repeat(images.ids[places], views), np.tile(np.arange(views), len(places))  # [M]
    keys = np.asarray([view_key(own, number, seed) for own, number in zip(ids, numbers.tolist(), strict=True)], "S32")
    rows = {key: row for row, key in enumerate(np.asarray(stored, "S32").tolist()) if key}
    known = np.asarray([rows.get(key, -1) for key in keys.tolist()], dtype=np.int64)
    order = np.argsort(known < 0, kind="stable")
    return ViewPlan(keys[order], ids[order], np.repeat(places, views)[order], numbers[order], known[order])


def seeing(teacher: Teacher, images: ImageTable) -> Teacher:
    """Return a teacher set up for a set of images; for clips, its revision includes the choice of frames.

    Raises:
        ConfigError: the teacher takes clips, and these are still images.
    """
    if images.frames is None:
        if getattr(teacher, "frames", None):
            raise ConfigError(
                f"Teacher {teacher.name} takes clips, and {images.source} has none: name another teacher."
            )
        return teacher
    seen = copy.copy(teacher)
    seen.revision = digest(teacher.revision, images.frames.name)
    return seen


def find_places(images: ImageTable, splits: Sequence[str]) -> np.ndarray:
    """Return the first position in the table of each distinct image of the given splits, int64 [N].

    Raises:
        ConfigError: an unknown split, or no split.
        DataError: there are no images in these splits.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown or not splits:
        raise ConfigError(f"splits must be some of {', '.join(SPLITS)}, not {', '.join(unknown) or 'none'}.")
    places = np.sort(np.concatenate([images.split(name) for name in dict.fromkeys(splits)]))
    if not len(places):
        raise DataError(f"{images.source} has no images in {', '.join(splits)}. Name other splits (--splits).")
    first = np.sort(np.unique(images.ids[places], return_index=True)[1])
    return np.asarray(places[first], dtype=np.int64)


def view_key(own: bytes, number: int, seed: int) -> bytes:
    """Return the key of an image's view: a hash, or for the view that evaluation sees the id of the image."""
    return own if number == 0 else digest(own, f"view {number} of seed {seed} {CROP_SCALE} {CROP_RATIO}").encode()


def hash_keys(keys: np.ndarray) -> str:
    """Hash a set of views [M], regardless of their order."""
    return digest(np.sort(keys).tobytes())


class PreparedBatch(NamedTuple):
    """A batch of views, without those of unreadable images.

    Attributes:
        rows: their rows in the plan, int64 [B].
        images: float32 [B, 3, H, W], for clips [B, T, 3, H, W].
        faults: the unreadable images, and why.
    """

    rows: Tensor
    images: Tensor
    faults: list[str]


@dataclass(frozen=True)
class PreparedViews(Dataset[PreparedBatch]):
    """The views of a plan as tensors, a batch of rows at a time.

    Random views depend only on the seed, the image id and the view number, not on batches and workers.

    Attributes:
        images: the images.
        plan: the views.
        preparation: how images are prepared.
        seed: seed of the random views.
    """

    images: ImageTable
    plan: ViewPlan
    preparation: Preparation
    seed: int = 0

    def __getitem__(self, rows: np.ndarray) -> PreparedBatch:
        made: dict[int, Tensor] = {}
        faults = []
        for place, group in groupby(rows.tolist(), lambda row: int(self.plan.places[row])):
            own = list(group)
            try:
                images = self._decode(place, self.plan.ids[own[0]])  # once for all views of an image
            except ImageError as error:
                faults.append(str(error))
            else:
                made |= {row: self._prepare_all(row, images) for row in own}
        tensors = torch.stack(list(made.values())) if made else torch.zeros(0, 3, *self.preparation.size)
        return PreparedBatch(torch.tensor(list(made), dtype=torch.int64), tensors, faults)

    def _decode(self, place: int, own: bytes) -> list[Image.Image]:
        """Return the image, or the frames of a clip."""
        if self.images.frames is not None:
            return self.images.over_frames(place, lambda frame: frame.decode())
        data, path = self.images.read(place), self.images.path(place)
        if image_id(data).encode() != own:
            raise ImageError(f"{path}: has changed since the images were listed")
        return [decode(data, path, self.images.max_pixels)]

    def _prepare_all(self, row: int, images: Sequence[Image.Image]) -> Tensor:
        """Return a view [3, H, W], or for a clip [T, 3, H, W] with all frames cropped alike."""
        prepared = [self._prepare(row, image) for image in images]
        return prepared[0] if self.images.frames is None else torch.stack(prepared)

    def _prepare(self, row: int, image: Image.Image) -> Tensor:
        number = int(self.plan.views[row])
        if number == 0:
            return self.preparation.plain(image)
        return self.preparation.view(image, np.random.default_rng([self.seed, number, int(self.plan.ids[row], 16)]))
