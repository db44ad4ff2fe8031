"""Batches of images, labels and guidance, independent of the number of workers and of where training resumes.

A sampler chooses the images of a batch (`EpochBatches`, `ShareInOrder`), and `LabelledInputs` makes the batch. Random
draws depend only on seed, draw and image, never on the worker.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from gpt4image.core.errors import TrainingError
from gpt4image.core.files import digest
from gpt4image.images.crops import crop_ids
from gpt4image.images.table import ImageTable
from gpt4image.tasks import find_task
from gpt4image.train.guidance import Guidance, mean_soft_labels
from gpt4image.train.transforms import View

PICKLED_BYTES = 64 * 1024  # tensors up to this size leave a worker through its pipe, others through shared memory
Key = tuple[int, int]  # draw and position in the dataset; the draw is the epoch, unless images are repeated


class BatchPart(NamedTuple):
    """The images of one batch of one process.

    Attributes:
        keys: the images.
        whole: positions of all images of the optimiser step, over all parts and processes; None outside of training.
        parts: number of parts that the step is accumulated from.
    """

    keys: list[Key]
    whole: np.ndarray | None = None
    parts: int = 1


class Batch(NamedTuple):
    """One batch of B images.

    Attributes:
        inputs: pixels uint8 [B, 3, H, W], of clips [B, T, 3, H, W], normalised ones, or cached features of frozen
            modules [B, ...].
        labels: as the task has them (`Task.labels`): classes, int64 [B], -1 if unlabelled; or several
            labels, int8 [B, C]: 1 present, 0 absent, -1 unknown; or boxes, float32 [B, M, 5]; or masks and boxes,
            float32 [B, S * S + 5 * M].
        vectors: for each source of vectors float32 [B, D], zero if an image has none.
        known: for each source, which images have a vector, bool [B].
        soft: soft labels [B, C], zero if an image has none; [B, 0] without soft labels.
        ids: a number for each distinct image, int64 [B].
        rows: positions in the image table, int64 [B].
        counts: images of the optimiser step over all processes, divided by its parts: labelled ones, unlabelled ones
            with a soft label, and those with a vector of each source; float32 [2 + sources].
        strong: strongly augmented views of the U images without a label [U, ...], if the recipe wants them.
        free: number of images without a label in the optimiser step over all processes, divided by its parts.
        crops: a vision-language teacher's unit vectors of these very inputs [B, D], if there is one.
        second: second views of all images [B, ...], for a self-supervised loss; None once it takes no part.
        regions: for each source of vectors of boxes float32 [B * M, D], zero where a box has none; None without any.
        known_regions: likewise, which boxes are in the input and have a vector, bool [B * M].
    """

    inputs: Tensor
    labels: Tensor
    vectors: tuple[Tensor, ...]
    known: tuple[Tensor, ...]
    soft: Tensor
    ids: Tensor
    rows: Tensor
    counts: Tensor
    strong: Tensor | None = None
    free: Tensor | None = None
    crops: Tensor | None = None
    second: Tensor | None = None
    regions: tuple[Tensor, ...] | None = None
    known_regions: tuple[Tensor, ...] | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        return Batch(*_each(lambda part: part.to(device, non_blocking=True), self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle small tensors by value; torch opens a shared memory file for each, which takes longer than a copy."""

        def pack(part: Tensor) -> Tensor | np.ndarray:
            small = part.nbytes <= PICKLED_BYTES and part.dtype is not torch.bfloat16  # a type NumPy lacks
            return part.numpy() if small else part

        return _unpickle_batch, _each(pack, self)


def _unpickle_batch(*parts: Any) -> Batch:  # noqa: ANN401 - tensors, arrays, or several of them
    return Batch(*_each(torch.as_tensor, parts))


def _each(change: Callable[[Any], Any], parts: Any) -> Any:  # noqa: ANN401 - likewise, or None
    """Apply a function to each tensor or array; a loader turns tuples into lists."""
    if isinstance(parts, tuple | list):
        return tuple(_each(change, part) for part in parts)
    return None if parts is None else change(parts)


class Inputs(Dataset[Tensor]):
    """Inputs of the model, by draw and position."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of positions."""

    @abstractmethod
    def __getitem__(self, key: Key) -> Tensor: ...

    def batch(self, keys: Sequence[Key], labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return some inputs [B, ...] and their labels [B, ...] for these inputs."""
        inputs: Tensor = default_collate([self[key] for key in keys])  # stacks in shared memory in a worker
        return inputs, torch.from_numpy(labels)

    def regions(self, labels: Tensor) -> Tensor:
        """Return the boxes that the labels of a batch hold, [B, M, 5]; those of detection are nothing else."""
        return labels


class ImageInputs(Inputs):
    """Views of the images of some rows of a table [3, H, W], of clips those of their frames [T, 3, H, W].

    Random ones depend on seed, draw and position.
    """

    def __init__(self, images: ImageTable, rows: np.ndarray, view: View, seed: int = 0) -> None:
        self._images, self._rows, self._view, self._seed = images, rows, view, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> Tensor:
        draw, position = key
        row, drawn = int(self._rows[position]), (self._seed, draw, position)
        if self._images.frames is None:
            return self._view(self._images.encoded(row), drawn)
        return torch.stack(self._images.over_frames(row, lambda frame: self._view(frame, drawn)))  # the same draws

    @property
    def identity(self) -> str:
        """Hash of the ids of the images, in order, and of which frames of clips are seen."""
        frames = [self._images.frames.name] if self._images.frames else []
        return digest(self._images.ids[self._rows].tobytes(), *frames)


class LabelledInputs(Dataset[Batch]):
    """Inputs with their labels and guidance, one batch at a time.

    Args:
        rows: positions of the images in the table, int64 [N].
        guidance: vectors and soft labels. Texts are drawn by its seed, the draw and the image id.
        strong: strongly augmented views of the same images.
        crops: a teacher's vectors of the inputs, if they are stored.
        second: second views of the same images.
        second_draws: draws that have a second view: the first ones.
    """

    def __init__(
        self,
        inputs: Inputs,
        images: ImageTable,
        rows: np.ndarray,
        guidance: Guidance | None = None,
        strong: Inputs | None = None,
        crops: Inputs | None = None,
        second: Inputs | None = None,
        second_draws: int = 0,
    ) -> None:
        self._inputs, self._rows, self._strong, self._crops = inputs, rows, strong, crops
        self._second, self._second_draws = second, second_draws
        self._guidance = replace(guidance or Guidance(), anchors=None)  # a model that workers do not need
        self._labels, self._labelled = find_task(images).labels(images, rows), images.is_labelled[rows]
        ids = images.ids[rows]
        self._ids = np.unique(ids, return_inverse=True)[1].astype(np.int64)
        self._places = [source.find(ids) for source in self._guidance.sources]  # [N, stores] each
        soft = [labels.find(ids) for labels in self._guidance.soft_labels]
        self._soft_places = np.stack(soft or [np.full(len(ids), -1)], axis=1)  # [N, stores]
        self._regions = self._find_regions(images)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: BatchPart) -> Batch:
        draws, positions = np.asarray(part.keys, dtype=np.int64).T
        guidance = self._guidance
        vectors = (
            source.take(places[positions], guidance.texts, guidance.seed, draws)
            for source, places in zip(guidance.sources, self._places, strict=True)
        )
        soft = mean_soft_labels(guidance.soft_labels, self._soft_places[positions], guidance.soft_temperature)
        whole = positions if part.whole is None else part.whole
        counts = self._counts(whole) / np.float32(part.parts)
        inputs, labels = self._inputs.batch(part.keys, self._labels[positions])
        return Batch(
            inputs=inputs,
            labels=labels,
            vectors=tuple(map(torch.from_numpy, vectors)),
            known=tuple(torch.from_numpy(places[positions, 0] >= 0) for places in self._places),
            soft=torch.from_numpy(soft),
            ids=torch.from_numpy(self._ids[positions]),
            rows=torch.from_numpy(self._rows[positions]),
            counts=torch.from_numpy(counts),
            strong=None if self._strong is None else self._strong_views(part),
            free=torch.tensor((~self._labelled[whole]).sum() / part.parts, dtype=torch.float32),
            crops=None if self._crops is None else torch.stack([self._crops[key] for key in part.keys]),
            second=self._second_views(part),
            **(self._take_regions(positions, draws, labels) if self._regions else {}),
        )

    def _find_regions(self, images: ImageTable) -> list[np.ndarray]:
        """Return where each source of vectors of boxes has them, int64 [N, M, stores] each; -1 for none."""
        if not self._guidance.regions:
            return []
        boxes = images.boxes(self._rows)
        ids = np.zeros((len(boxes), max(1, *(0 if own is None else len(own) for own in boxes))), "S32")
        for row, image_id, own in zip(ids, images.ids[self._rows].tolist(), boxes, strict=True):
            if own is not None:
                row[: len(own)] = crop_ids(image_id.decode(), own, self._guidance.margin)
        found = (source.find(ids.ravel()) for source in self._guidance.regions)
        return [places.reshape(*ids.shape, -1) for places in found]

    def _take_regions(self, positions: np.ndarray, draws: np.ndarray, labels: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Return the fields of a batch about regions; boxes that the view has cut away are not known."""
        guidance, boxes = self._guidance, self._inputs.regions(labels)
        there = (boxes[..., 0] >= 0).flatten()
        every = np.repeat(draws, boxes.shape[1])
        vectors, known = [], []
        for source, places in zip(guidance.regions, self._regions, strict=True):
            own = places[positions, : boxes.shape[1]].reshape(len(every), -1)
            vectors.append(torch.from_numpy(source.take(own, guidance.texts, guidance.seed, every)))
            known.append(torch.from_numpy(own[:, 0] >= 0) & there)
        return {"regions": tuple(vectors), "known_regions": tuple(known)}

    def _second_views(self, part: BatchPart) -> Tensor | None:
        """Return second views of a part's images [B, ...]; None once the self-supervised loss takes no part."""
        if self._second is None or part.keys[0][0] >= self._second_draws:
            return None
        return torch.stack([self._second[key] for key in part.keys])

    def _strong_views(self, part: BatchPart) -> Tensor:
        """Return strong views of a part's images without a label [U, ...]; U may be 0."""
        assert self._strong is not None
        free = [key for key in part.keys if not self._labelled[key[1]]]
        views = torch.stack([self._strong[key] for key in free or part.keys[:1]])
        return views[: len(free)]

    def _counts(self, whole: np.ndarray) -> np.ndarray:
        labelled = self._labelled[whole]
        soft = ~labelled & (self._soft_places[whole] >= 0).any(axis=1)
        described = [(places[whole, 0] >= 0).sum() for places in self._places]
        return np.asarray([labelled.sum(), soft.sum(), *described], dtype=np.float32)


class EpochBatches(Sampler[BatchPart]):
    """Training batches of one epoch for one process, in an order that depends only on seed and epoch.

    The images of a step are dealt out to its parts, and those of a part to the processes in turn. The last, incomplete
    step of an epoch is dropped. With repeated augmentation (Hoffer et al., arXiv 1901.09335; Touvron et al., DeiT,
    arXiv 2012.12877) each image comes several times in a row, each time as another draw, and an epoch shows fewer
    images. Set `epoch` and `start` (the first part) before iterating.

    Args:
        batch_size: images of an optimiser step, over all parts and processes.
        parts: parts of a step, whose gradients are accumulated.
        repeats: copies of each image.
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
        self.epoch = self.start = 0
        self._size, self.batch_size, self._seed = size, batch_size, seed
        self._process, self._processes = process, processes
        self._parts, self._repeats = parts, repeats

    def __len__(self) -> int:
        return self._size // self.batch_size * self._parts

    def frequencies(self, size: int) -> np.ndarray:
        """Return the expected share of each position of the dataset [N] in the batches."""
        return np.full(size, 1 / size)

    def __iter__(self) -> Iterator[BatchPart]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._size)
        copies = np.repeat(order, self._repeats)[: self._size]
        draws = self.epoch * self._repeats + np.arange(self._size) % self._repeats
        share = self.batch_size // self._parts
        for number in range(self.start, len(self)):
            first = number * share
            step = number // self._parts * self.batch_size
            own = slice(first + self._process, first + share, self._processes)
            keys = list(zip(draws[own].tolist(), copies[own].tolist(), strict=True))
            yield BatchPart(keys, copies[step : step + self.batch_size], self._parts)


class ShareInOrder(Sampler[BatchPart]):
    """Batches of one process's share of a dataset, in order, for evaluation: positions p, p + P, p + 2 P..."""

    def __init__(self, size: int, batch_size: int, process: int = 0, processes: int = 1) -> None:
        self._positions = range(process, size, processes)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / self._batch_size)

    def __iter__(self) -> Iterator[BatchPart]:
        for start in range(0, len(self._positions), self._batch_size):
            yield BatchPart([(0, position) for position in self._positions[start : start + self._batch_size]])


def make_loader(
    dataset: LabelledInputs, batches: Sampler[BatchPart], workers: int, *, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Return a loader whose worker processes live from epoch to epoch.

    Args:
        workers: processes that prepare batches; affects speed only.
        pin_memory: use page-locked memory, for copies to a GPU.
    """
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,  # the dataset makes whole batches
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def labelled_rows(images: ImageTable, split: str) -> np.ndarray:
    """Return the table positions of a split's labelled images, int64. TrainingError if it has none."""
    in_split = images.split(split)
    rows: np.ndarray = in_split[images.is_labelled[in_split]]
    if not len(rows):
        raise TrainingError(f"{images.source} has no labelled {split} images.")
    return rows


def training_rows(images: ImageTable, guidance: Guidance, unlabelled: bool, everything: bool = False) -> np.ndarray:
    """Return the table positions of the training images that an arm uses, int64.

    Args:
        unlabelled: include unlabelled images that have a vector or soft label.
        everything: include all unlabelled images.

    Raises:
        TrainingError: no training image has a label or soft label.
    """
    in_split = images.split("train")
    labelled = images.is_labelled[in_split]
    ids = images.ids[in_split]
    soft = np.zeros(len(ids), dtype=bool)
    for labels in guidance.soft_labels:
        soft |= labels.find(ids) >= 0
    if not labelled.any() and not (unlabelled and soft.any()):
        raise TrainingError(
            f"No training image of {images.source} has a label, as training on labels needs: label some, or let the "
            "descriptions label them (gpt4image train --arm text-labels)."
        )
    if everything:
        return in_split
    if not unlabelled:
        return np.asarray(in_split[labelled])
    described = np.zeros(len(ids), dtype=bool)
    for source in guidance.sources:
        described |= source.find(ids)[:, 0] >= 0
    return np.asarray(in_split[labelled | soft | described])


def fitting_batch_size(batch_size: int, parts: int, images: int) -> int:
    """Return the largest batch size up to `batch_size` that the images fill and that splits into even parts.

    Raises:
        TrainingError: there are too few images for any batch.

    >>> fitting_batch_size(64, 1, 50), fitting_batch_size(64, 4, 30)
    (50, 24)
    """
    step = 2 * parts
    if images < step:
        raise TrainingError(f"{images} labelled training images are too few for batches in {parts} parts of 2 or more.")
    return batch_size if batch_size <= images else images // step * step
