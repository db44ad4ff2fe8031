"""Batches with a given share of labelled images, in epochs of the same length for every arm of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from gpt4image.train.data import BatchPart, EpochBatches

LABELLED, UNLABELLED, ORDER = 0, 1, 2  # streams of random draws


class MixedBatches(EpochBatches):
    """Training batches for one process, where training images without a label exist.

    An epoch has as many steps as the whole training set fills, so that an arm that uses few of its images trains as
    long as one that uses all. Labelled and unlabelled images come in two endless streams, each a permutation after the
    other; the k-th pass over an image is its k-th draw. A batch holds at least the wanted share of labelled images, and
    more where they are more frequent, or where the arm uses no others.

    Args:
        labelled: positions of the labelled images in the dataset, int64 [L].
        unlabelled: positions of the others that the arm uses, int64 [U].
        epoch_images: images of the whole training set.
        share: smallest share of labelled images in a batch, above 0.
        classes: class of each labelled image, int [L], to sample as many images of each class; default none. A pass
            then shows every image of the largest class once, and those of the others several times, each time as
            another draw.
        order: the other arguments of `EpochBatches`, from `batch_size` on.
    """

    def __init__(
        self,
        labelled: np.ndarray,
        unlabelled: np.ndarray,
        epoch_images: int,
        share: float,
        *,
        classes: np.ndarray | None = None,
        **order: int,
    ) -> None:
        super().__init__(epoch_images, **order)
        batch_size, used = self.batch_size, len(labelled) + len(unlabelled)
        wanted = max(round(share * batch_size), round(batch_size * len(labelled) / used), 1)
        if not len(unlabelled):
            wanted = batch_size
        chosen = np.arange(len(labelled)) if classes is None else balance_classes(classes)
        self._streams = (labelled[chosen], unlabelled)
        self._copies = tuple(map(count_earlier, self._streams))
        self._sizes = (wanted, batch_size - wanted) if len(labelled) else (0, batch_size)
        self._permute = lru_cache(maxsize=4)(self._permutation)

    def __iter__(self) -> Iterator[BatchPart]:
        share = self.batch_size // self._parts
        for number in range(self.start, len(self)):
            step, part = divmod(number, self._parts)
            draws, positions = self._step(self.epoch * (len(self) // self._parts) + step)
            own = slice(part * share + self._process, (part + 1) * share, self._processes)
            keys = list(zip(draws[own].tolist(), positions[own].tolist(), strict=True))
            yield BatchPart(keys, positions, self._parts)

    def _step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the draws and positions of the images of a step, counted from the first epoch, int64 [B] each."""
        pairs = [self._take(stream, step) for stream in (LABELLED, UNLABELLED) if self._sizes[stream]]
        order = np.random.default_rng([self._seed, ORDER, step]).permutation(self.batch_size)
        draws, positions = (np.concatenate(column)[order] for column in zip(*pairs, strict=True))
        return draws, positions

    def _take(self, stream: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return draws and positions of a stream's images in a step; an image repeats as often as the recipe says."""
        size, total = self._sizes[stream], len(self._streams[stream])
        fresh = -(-size // self._repeats)
        passes, places = np.divmod(np.arange(step * fresh, (step + 1) * fresh), total)
        orders = {number: self._permute(stream, number) for number in np.unique(passes).tolist()}
        chosen = np.array(
            [orders[number][place] for number, place in zip(passes.tolist(), places.tolist(), strict=True)]
        )
        copies = self._copies[stream]
        shown = passes * (copies.max() + 1) + copies[chosen]  # how often the image was shown before
        draws = np.repeat(shown * self._repeats, self._repeats) + np.tile(np.arange(self._repeats), fresh)
        return draws[:size], np.repeat(self._streams[stream][chosen], self._repeats)[:size]

    def frequencies(self, size: int) -> np.ndarray:
        """Return the expected share of each position of the dataset [N] in the batches."""
        found = np.zeros(size)
        for positions, count in zip(self._streams, self._sizes, strict=True):
            if count:
                np.add.at(found, positions, count / self.batch_size / len(positions))
        return found

    def _permutation(self, stream: int, number: int) -> np.ndarray:
        total = len(self._streams[stream])
        return np.random.default_rng([self._seed, stream, number]).permutation(total)


def balance_classes(classes: np.ndarray) -> np.ndarray:
    """Return positions in which each class occurs as often as the largest one, int64 [C x largest].

    >>> balance_classes(np.array([0, 0, 0, 1])).tolist()
    [0, 1, 2, 3, 3, 3]
    """
    own = [np.flatnonzero(classes == value) for value in np.unique(classes)]
    largest = max(map(len, own), default=0)
    return np.concatenate([np.resize(rows, largest) for rows in own]) if own else np.empty(0, dtype=np.int64)


def count_earlier(positions: np.ndarray) -> np.ndarray:
    """Return how often each position occurs earlier in the array, int64 [N].

    >>> count_earlier(np.array([4, 7, 4, 4])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty(len(positions), dtype=np.int64)
    found[order] = np.arange(len(positions)) - starts
    return found
