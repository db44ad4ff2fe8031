"""The views of images that a teacher answers: which, in what order, and as tensors."""

from __future__ import annotations

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
from gpt4image.teachers.preparation import CROP_RATIO, CROP_SCALE, Preparation


@dataclass(frozen=True)
class ViewPlan:
    """Views in the order in which they are answered: known ones first, then as the images lie in the table.

    Attributes:
        keys: hash that tells a view from all others, S32 [M].
        ids: its image's id, S32 [M].
        places: position of its image in the table, int64 [M].
        views: its number among the views of its image, int64 [M]; 0 is the picture as evaluation sees it.
        known: its row in what an earlier run has stored, int64 [M]; -1 where it has to be answered.
    """

    keys: np.ndarray
    ids: np.ndarray
    places: np.ndarray
    views: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def plan_views(
    images: ImageTable, splits: Sequence[str], views: int, seed: int, stored: Sequence[bytes] | np.ndarray = ()
) -> ViewPlan:
    """Decide which views are answered in which order; the same input gives the same plan.

    Args:
        images: the images; one that lies in several places is answered once.
        splits: splits whose images are meant.
        views: views of each image.
        seed: seed of the random ones.
        stored: keys of the views that an earlier run has stored, in their order; empty keys stand for none.

    Raises:
        ConfigError: no view, a seed below 0, or an unknown split.
        DataError: there are no images in these splits.
    """
    if views < 1 or seed < 0:
        raise ConfigError(f"Views must be 1 or more and their seed 0 or more, not {views} and {seed}.")
    return plan_places(images, first_places(images, splits), views, seed, stored)


def plan_places(
    images: ImageTable, places: np.ndarray, views: int = 1, seed: int = 0, stored: Sequence[bytes] | np.ndarray = ()
) -> ViewPlan:
    """`plan_views` for the images at some positions of the table [N], each image once."""
    ids = np.repeat(images.ids[places], views)
    numbers = np.tile(np.arange(views), len(places))
    keys = np.asarray([view_key(own, number, seed) for own, number in zip(ids, numbers.tolist(), strict=True)], "S32")
    rows = {key: row for row, key in enumerate(np.asarray(stored, "S32").tolist()) if key}
    known = np.asarray([rows.get(key, -1) for key in keys.tolist()], dtype=np.int64)
    order = np.argsort(known < 0, kind="stable")
    return ViewPlan(keys[order], ids[order], np.repeat(places, views)[order], numbers[order], known[order])


def first_places(images: ImageTable, splits: Sequence[str]) -> np.ndarray:
    """Positions of the distinct images of some splits, in the table's order, int64 [N]."""
    unknown = [name for name in splits if name not in SPLITS]
    if unknown or not splits:
        raise ConfigError(f"splits must be some of {', '.join(SPLITS)}, not {', '.join(unknown) or 'none'}.")
    places = np.sort(np.concatenate([images.split(name) for name in dict.fromkeys(splits)]))
    if not len(places):
        raise DataError(f"{images.source} has no images in {', '.join(splits)}. Name other splits: --splits.")
    first = np.sort(np.unique(images.ids[places], return_index=True)[1])
    return np.asarray(places[first], dtype=np.int64)


def view_key(own: bytes, number: int, seed: int) -> bytes:
    """Hash of an image's view; the id of the image itself for the one that evaluation sees."""
    return own if number == 0 else digest(own, f"view {number} of seed {seed} {CROP_SCALE} {CROP_RATIO}").encode()


class PreparedBatch(NamedTuple):
    """Some views, without those of images that cannot be read.

    Attributes:
        rows: their rows in the plan, int64 [B].
        images: float32 [B, 3, H, W].
        faults: the images that cannot be read, and why.
    """

    rows: Tensor
    images: Tensor
    faults: list[str]


@dataclass(frozen=True)
class PreparedViews(Dataset[PreparedBatch]):
    """The views of a plan as tensors, a batch of rows at a time. Random ones draw from seed, image id and number alone.

    Attributes:
        images: the images.
        plan: the views.
        preparation: how pictures are prepared.
        seed: seed of the random views, from 0 up.
    """

    images: ImageTable
    plan: ViewPlan
    preparation: Preparation
    seed: int = 0

    def __getitem__(self, rows: np.ndarray) -> PreparedBatch:
        made: dict[int, Tensor] = {}
        faults = []
        for place, group in groupby(rows.tolist(), lambda row: int(self.plan.places[row])):
            own = list(group)  # the views of an image lie side by side: it is decoded once
            try:
                picture = self._picture(place, self.plan.ids[own[0]])
            except ImageError as error:
                faults.append(str(error))
            else:
                made |= {row: self._prepare(row, picture) for row in own}
        tensors = torch.stack(list(made.values())) if made else torch.zeros(0, 3, *self.preparation.size)
        return PreparedBatch(torch.tensor(list(made), dtype=torch.int64), tensors, faults)

    def _picture(self, place: int, own: bytes) -> Image.Image:
        data, path = self.images.read(place), self.images.path(place)
        if image_id(data).encode() != own:
            raise ImageError(f"{path}: has changed since the images were listed")
        return decode(data, path, self.images.max_pixels)

    def _prepare(self, row: int, picture: Image.Image) -> Tensor:
        number = int(self.plan.views[row])
        if number == 0:
            return self.preparation.plain(picture)
        words = [self.seed, number, int(self.plan.ids[row], 16)]
        return self.preparation.view(picture, np.random.default_rng(words))
