"""Batches with a set share of labelled images, in epochs whose length every arm of a comparison has in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from gpt4image.train.data import EpochBatches, Part

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
        others: the other arguments of `EpochBatches`, from `batch_size` on.
    """

    def __init__(
        self,
        labelled: np.ndarray,
        unlabelled: np.ndarray,
        epoch_images: int,
        share: float,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        parts: int = 1,
        repeats: int = 1,
    ) -> None:
        super().__init__(epoch_images, batch_size, seed, process, processes, parts, repeats)
        used = len(labelled) + len(unlabelled)
        wanted = max(round(share * batch_size), round(batch_size * len(labelled) / used), 1)
        if not len(unlabelled):
            wanted = batch_size
        self._streams = (labelled, unlabelled)
        self._sizes = (wanted, batch_size - wanted) if len(labelled) else (0, batch_size)
        self._permute = lru_cache(maxsize=4)(self._permutation)

    def __iter__(self) -> Iterator[Part]:
        share = self.batch_size // self._parts
        for number in range(self.start, len(self)):
            step, part = divmod(number, self._parts)
            draws, positions = self._step(self.epoch * (len(self) // self._parts) + step)
            own = slice(part * share + self._process, (part + 1) * share, self._processes)
            keys = list(zip(draws[own].tolist(), positions[own].tolist(), strict=True))
            yield Part(keys, positions, self._parts)

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
        draws = np.repeat(passes * self._repeats, self._repeats) + np.tile(np.arange(self._repeats), fresh)
        return draws[:size], np.repeat(self._streams[stream][chosen], self._repeats)[:size]

    def _permutation(self, stream: int, number: int) -> np.ndarray:
        total = len(self._streams[stream])
        return np.random.default_rng([self._seed, stream, number]).permutation(total)
