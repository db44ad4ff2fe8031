"""Batches of images, labels and text vectors, the same whatever the number of workers and wherever training resumes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gpt4image.embed.store import EmbeddingStore, TextChoice
from gpt4image.errors import TrainingError
from gpt4image.images.table import ImageTable
from gpt4image.train.augment import Transform, seed_everything

Key = tuple[int, int]
"""Epoch and position in the dataset."""


class Batch(NamedTuple):
    """One batch.

    Attributes:
        inputs: images [B, 3, H, W], or stored features of the frozen modules [B, ...].
        labels: int64 [B].
        text: text vectors float32 [B, D]; zero where there is none; D is 0 when training without text.
        has_text: bool [B].
        rows: positions in the image table, int64 [B].
    """

    inputs: Tensor
    labels: Tensor
    text: Tensor
    has_text: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Inputs(Dataset[Tensor]):
    """What the model is fed, by epoch and position."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of positions."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Tensor: ...


class ImageInputs(Inputs):
    """Decoded and transformed images of some rows of a table.

    Random transforms draw from (seed, epoch, position) alone.
    """

    def __init__(self, images: ImageTable, rows: np.ndarray, transform: Transform, seed: int = 0) -> None:
        self._images, self._rows, self._transform, self._seed = images, rows, transform, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> Tensor:
        epoch, position = key
        seed_everything(self._seed, epoch, position)
        return self._transform(self._images.image(int(self._rows[position])))


class LabelledInputs(Dataset[Batch]):
    """Inputs with their labels and texts, a batch at a time.

    Args:
        inputs: what the model is fed.
        images: the table of their images.
        rows: positions of the images in the table, int64 [N].
        store: text vectors; None for batches without text.
        texts: what stands for an image that has several texts.
        seed: seed of the draws among them; they depend on seed, epoch and image id alone.
    """

    def __init__(
        self,
        inputs: Inputs,
        images: ImageTable,
        rows: np.ndarray,
        store: EmbeddingStore | None = None,
        texts: TextChoice = "random",
        seed: int = 0,
    ) -> None:
        self._inputs, self._rows, self._store = inputs, rows, store
        self._texts, self._seed = texts, seed
        self._labels = images.labels[rows].astype(np.int64)
        self._in_store = store.find(images.ids[rows]) if store else np.full(len(rows), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        epoch = keys[0][0]
        positions = np.asarray([position for _, position in keys])
        return Batch(
            torch.stack([self._inputs[key] for key in keys]),
            torch.from_numpy(self._labels[positions]),
            torch.from_numpy(self._text(positions, epoch)),
            torch.from_numpy(self._in_store[positions] >= 0),
            torch.from_numpy(self._rows[positions]),
        )

    def _text(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        if self._store is None:
            return np.zeros((len(positions), 0), dtype=np.float32)
        return self._store.take(self._in_store[positions], self._texts, self._seed, epoch)


class EpochBatches(Sampler[list[Key]]):
    """Keys of one epoch's batches for one process, in an order that depends on seed and epoch alone.

    The images of a global batch are dealt out to the processes in turn; the last, incomplete batch of an epoch is
    left out. Set `epoch` and `start` (the first batch) before iterating.

    Args:
        size: images in the dataset.
        batch_size: images in a global batch.
        seed: seed of the order.
        process: rank of this process.
        processes: number of processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, process: int = 0, processes: int = 1) -> None:
        self.epoch = 0
        self.start = 0
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._process, self._processes = process, processes

    def __len__(self) -> int:
        return self._size // self._batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._size)
        for number in range(self.start, len(self)):
            batch = order[number * self._batch_size : (number + 1) * self._batch_size]
            yield [(self.epoch, int(position)) for position in batch[self._process :: self._processes]]


class ShareInOrder(Sampler[list[Key]]):
    """Keys of one process's share of a dataset in order, for evaluation."""

    def __init__(self, size: int, batch_size: int, process: int = 0, processes: int = 1) -> None:
        self._positions = range(process, size, processes)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self._positions), self._batch_size):
            yield [(0, position) for position in self._positions[start : start + self._batch_size]]


@dataclass(frozen=True)
class Loading:
    """How data are loaded; changes speed, never results.

    Attributes:
        workers: processes that prepare batches.
        pin_memory: page-locked memory, for copies to a GPU.
    """

    workers: int = 0
    pin_memory: bool = False


def make_loader(dataset: LabelledInputs, batches: Sampler[list[Key]], loading: Loading) -> DataLoader[Batch]:
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
