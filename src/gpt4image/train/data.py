"""Batches of images, labels and text vectors, the same whatever the number of workers and wherever training resumes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gpt4image.core.errors import TrainingError
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import Transform, seed_everything
from gpt4image.train.guidance import Guidance, mean_soft_labels

Key = tuple[int, int]


"""Number of the draw, which is the epoch where images are not repeated, and position in the dataset."""


class Part(NamedTuple):
    """What one process reads at a time.

    Attributes:
        keys: its images.
        whole: positions of all images of the optimiser step, of all parts and processes; None outside of training.
        parts: in how many parts the step is done.
    """

    keys: list[Key]
    whole: np.ndarray | None = None
    parts: int = 1


class Batch(NamedTuple):
    """One batch.

    Attributes:
        inputs: images [B, 3, H, W], or stored features of the frozen modules [B, ...].
        labels: int64 [B], -1 where there is none.
        vectors: of each source of vectors, float32 [B, D]; zero where there is none.
        known: for each source, which images have a vector, bool [B].
        soft: soft labels [B, C], zero where there are none; [B, 0] when training without.
        ids: a number for each distinct image, int64 [B].
        rows: positions in the image table, int64 [B].
        counts: images of the optimiser step, of all processes, for one of its parts: those with a label; those without,
            but with a soft one; and those with a vector of each source; float32 [2 + sources].
    """

    inputs: Tensor
    labels: Tensor
    vectors: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    soft: Tensor
    ids: Tensor
    rows: Tensor
    counts: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def move(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        return Batch(
            move(self.inputs),
            move(self.labels),
            tuple(map(move, self.vectors)),
            tuple(map(move, self.known)),
            *map(move, self[4:]),
        )


class Inputs(Dataset[Tensor]):
    """What the model is fed, by number of the draw and position."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of positions."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Tensor: ...


class ImageInputs(Inputs):
    """Decoded and transformed images of some rows of a table.

    Random transforms draw from (seed, number of the draw, position) alone.
    """

    def __init__(self, images: ImageTable, rows: np.ndarray, transform: Transform, seed: int = 0) -> None:
        self._images, self._rows, self._transform, self._seed = images, rows, transform, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> Tensor:
        draw, position = key
        seed_everything(self._seed, draw, position)
        return self._transform(self._images.image(int(self._rows[position])))


class LabelledInputs(Dataset[Batch]):
    """Inputs with their labels and all guidance, a batch at a time.

    Args:
        inputs: what the model is fed.
        images: the table of their images.
        rows: positions of the images in the table, int64 [N].
        guidance: vectors and soft labels; texts are drawn from its seed, the draw's number and the image id alone.
    """

    def __init__(self, inputs: Inputs, images: ImageTable, rows: np.ndarray, guidance: Guidance | None = None) -> None:
        self._inputs, self._rows, self._guidance = inputs, rows, guidance or Guidance()
        self._labels = images.labels[rows].astype(np.int64)
        self._classes = len(images.classes)
        ids = images.ids[rows]
        self._ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)
        self._places = [source.find(ids) for source in self._guidance.sources]
        self._soft_places = np.stack(
            [labels.find(ids) for labels in self._guidance.soft_labels] or [np.full(len(ids), -1)], axis=1
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: Part) -> Batch:
        draws, positions = np.asarray(part.keys, dtype=np.int64).T
        guidance = self._guidance
        return Batch(
            torch.stack([self._inputs[key] for key in part.keys]),
            torch.from_numpy(self._labels[positions]),
            tuple(
                torch.from_numpy(source.take(places[positions], guidance.texts, guidance.seed, draws))
                for source, places in zip(guidance.sources, self._places, strict=True)
            ),
            tuple(torch.from_numpy(places[positions, 0] >= 0) for places in self._places),
            torch.from_numpy(self._soft(positions)),
            torch.from_numpy(self._ids[positions]),
            torch.from_numpy(self._rows[positions]),
            torch.from_numpy(self._counts(positions if part.whole is None else part.whole) / np.float32(part.parts)),
        )

    def _soft(self, positions: np.ndarray) -> np.ndarray:
        stores = self._guidance.soft_labels
        if not stores:
            return np.zeros((len(positions), 0), dtype=np.float32)
        return mean_soft_labels(stores, self._soft_places[positions], self._guidance.soft_temperature)

    def _counts(self, whole: np.ndarray) -> np.ndarray:
        labelled = self._labels[whole] >= 0
        soft = ~labelled & (self._soft_places[whole] >= 0).any(axis=1)
        described = [(places[whole, 0] >= 0).sum() for places in self._places]
        return np.asarray([labelled.sum(), soft.sum(), *described], dtype=np.float32)


class EpochBatches(Sampler[Part]):
    """Keys of one epoch's batches for one process, in an order that depends on seed and epoch alone.

    The images of a step are dealt out to its parts, and those of a part to the processes in turn; the last, incomplete
    step of an epoch is left out. With repeated augmentation (Hoffer et al., arXiv 1901.09335; Touvron et al., DeiT,
    arXiv 2012.12877) each image comes several times in a row, in draws of its own, and an epoch meets fewer images. Set
    `epoch` and `start` (the first part) before iterating.

    Args:
        size: images in the dataset.
        batch_size: images of an optimiser step, over all parts and processes.
        seed: seed of the order.
        process: rank of this process.
        processes: number of processes.
        parts: parts of a step, in which gradients are accumulated.
        repeats: copies of an image.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        parts: int = 1,
        repeats: int = 1,
    ) -> None:
        self.epoch = 0
        self.start = 0
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._process, self._processes = process, processes
        self._parts, self._repeats = parts, repeats

    def __len__(self) -> int:
        return self._size // self._batch_size * self._parts

    def __iter__(self) -> Iterator[Part]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._size)
        copies = np.repeat(order, self._repeats)[: self._size]
        draws = self.epoch * self._repeats + np.arange(self._size) % self._repeats
        share = self._batch_size // self._parts
        for number in range(self.start, len(self)):
            first = number * share
            step = number // self._parts * self._batch_size
            own = slice(first + self._process, first + share, self._processes)
            keys = list(zip(draws[own].tolist(), copies[own].tolist(), strict=True))
            yield Part(keys, copies[step : step + self._batch_size], self._parts)


class ShareInOrder(Sampler[Part]):
    """Keys of one process's share of a dataset in order, for evaluation."""

    def __init__(self, size: int, batch_size: int, process: int = 0, processes: int = 1) -> None:
        self._positions = range(process, size, processes)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[Part]:
        for start in range(0, len(self._positions), self._batch_size):
            yield Part([(0, position) for position in self._positions[start : start + self._batch_size]])


@dataclass(frozen=True)
class Loading:
    """How data are loaded; changes speed, never results.

    Attributes:
        workers: processes that prepare batches.
        pin_memory: page-locked memory, for copies to a GPU.
    """

    workers: int = 0
    pin_memory: bool = False


def make_loader(dataset: LabelledInputs, batches: Sampler[Part], loading: Loading) -> DataLoader[Batch]:
    """A loader whose workers stay alive from epoch to epoch."""
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,  # the dataset makes whole batches
        num_workers=loading.workers,
        persistent_workers=loading.workers > 0,
        pin_memory=loading.pin_memory,
    )


def labelled_rows(images: ImageTable, split: str) -> np.ndarray:
    """Positions of a split's labelled images. TrainingError when there are none."""
    in_split = images.split(split)
    rows: np.ndarray = in_split[images.labels[in_split] >= 0]
    if not len(rows):
        raise TrainingError(f"{images.source} has no labelled {split} images.")
    return rows


def training_rows(images: ImageTable, guidance: Guidance, unlabelled: bool) -> np.ndarray:
    """Positions of the training images: those with a label, and where wished those with a vector or soft label alone.

    Raises:
        TrainingError: none has a label.
    """
    labelled = labelled_rows(images, "train")
    if not unlabelled:
        return labelled
    in_split = images.split("train")
    ids = images.ids[in_split]
    useful = images.labels[in_split] >= 0
    for source in guidance.sources:
        useful |= source.find(ids)[:, 0] >= 0
    for labels in guidance.soft_labels:
        useful |= labels.find(ids) >= 0
    rows: np.ndarray = in_split[useful]
    return rows


def fitting_batch_size(batch_size: int, parts: int, images: int) -> int:
    """The largest batch size up to the wished one that the images fill and that splits into even parts.

    Raises:
        TrainingError: there are too few images for any batch.

    >>> fitting_batch_size(64, 1, 50), fitting_batch_size(64, 4, 30)
    (50, 24)
    """
    step = 2 * parts
    if images < step:
        raise TrainingError(f"{images} labelled training images are too few for batches in {parts} parts of 2 or more.")
    return batch_size if batch_size <= images else images // step * step
