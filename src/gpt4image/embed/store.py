"""The embedding store: one vector per distinct text, looked up by image id through a shared memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout
from gpt4image.core.record import Record
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.description_set import DescriptionSet
from gpt4image.descriptions.store.latest import find_sorted

if TYPE_CHECKING:
    from torch import Tensor

TextChoice = Literal["mean", "random"]
"""Vector of an image with several texts: the normalised mean of their vectors, or one of them drawn at random."""

SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
"""Added to every word before mixing, so that words of zeros change the hash too."""


class EmbeddingLayout(Layout):
    """Files of an embedding store."""

    manifest = File("manifest.json")
    """Written last, so a store that has one is complete."""
    vectors = File("vectors.npy")
    """Unit vectors of the distinct texts, float16 [M, D]."""
    texts = File("texts.npy")
    """Hash of the text behind each vector, S32 [M]."""
    ids = File("ids.npy")
    """Image ids in ascending order, S32 [N]."""
    offsets = File("offsets.npy")
    """Texts of image n are `rows[offsets[n]:offsets[n + 1]]`, int64 [N + 1]."""
    rows = File("rows.npy")
    """Row of each text in `vectors`, image by image, int64 [K]."""


class EmbeddingManifest(Record):
    """Provenance and size of an embedding store. In a store of image vectors, "text" stands for a view of an image.

    Attributes:
        encoder: name of the text encoder or vision teacher.
        revision: hash of its weights.
        width: length D of a vector.
        max_tokens: context length of the encoder.
        long_text: how longer texts were encoded, `truncate` or `pool`.
        text_hash: hash of the image ids and texts.
        images: number N of images.
        distinct_texts: number M of vectors.
        texts: number K of texts; a text that several images share counts once for each.
        truncated: number of texts whose end was cut off.
        longest: token counts of the longest of these, by image id.
        kind: whether the vectors embed texts, or the images themselves (by a vision teacher).
    """

    encoder: str
    revision: str
    width: int
    max_tokens: int
    long_text: str
    text_hash: str
    images: int
    distinct_texts: int
    texts: int
    truncated: int
    longest: dict[str, int]
    kind: Literal["text", "images"] = "text"


class EmbeddingStore:
    """Text vectors by image id. Opens instantly and copies nothing, whatever its size.

    Args:
        folder: a complete store.

    Raises:
        StoreError: the folder holds no complete store, a damaged one, or one in another format.
    """

    def __init__(self, folder: Path | str) -> None:
        self.layout = EmbeddingLayout(Path(folder))
        if not self.layout.manifest.exists():
            raise StoreError(f"{folder} holds no complete embeddings. Create them: gpt4image embed DATA --work WORK.")
        try:
            self.manifest = EmbeddingManifest.load(self.layout.manifest)
        except StoreError as error:
            raise StoreError(f"{error} Delete {folder} and embed again.") from None
        try:
            self.vectors, self._ids, self._offsets, self._rows = (
                np.load(path, mmap_mode="r")
                for path in (self.layout.vectors, self.layout.ids, self.layout.offsets, self.layout.rows)
            )
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{folder} is damaged ({error}). Delete the folder and embed again.") from None
        sizes = self.manifest
        expected = (sizes.distinct_texts, sizes.width), (sizes.images,), (sizes.images + 1,), (sizes.texts,)
        if expected != tuple(array.shape for array in (self.vectors, self._ids, self._offsets, self._rows)):
            raise StoreError(f"{folder} does not match its manifest. Delete the folder and embed again.")

    # Data loader workers receive the path, not the arrays, and map the same files.
    def __getstate__(self) -> Path:
        return self.layout.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.manifest.images

    @property
    def width(self) -> int:
        """Length D of a vector."""
        return self.manifest.width

    def find(self, ids: Sequence[str | bytes] | np.ndarray) -> np.ndarray:
        """Return the positions of image ids [B] in the store, int64 [B]; -1 for images without a text."""
        return find_sorted(self._ids, np.asarray(ids, dtype="S32"))

    def lookup(
        self, ids: Sequence[str | bytes] | np.ndarray, choose: TextChoice = "mean", seed: int = 0, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Look up the text vectors of images.

        Args:
            ids: image ids [B].
            choose: what to return for an image with several texts: the normalised mean of their vectors (`mean`), or
                one of them, drawn by seed, epoch and image id (`random`).
            seed: seed of the draws.
            epoch: each epoch draws anew.

        Returns:
            Unit vectors, float32 [B, D], zero for images without a text; and whether each image has one, bool [B].

        Raises:
            ConfigError: `choose` is unknown.
        """
        import torch

        positions = self.find(ids)
        return torch.from_numpy(self.take(positions, choose, seed, epoch)), torch.from_numpy(positions >= 0)

    def take(self, positions: np.ndarray, choose: TextChoice = "mean", seed: int = 0, epoch: int = 0) -> np.ndarray:
        """Return one vector per image, float32 [B, D], for positions [B] from `find`; zero where the position is -1."""
        found = positions >= 0
        vectors = np.zeros((len(positions), self.width), dtype=np.float32)
        starts = self._offsets[positions[found]]
        counts = self._offsets[positions[found] + 1] - starts
        match choose:
            case "random":
                drawn = draw_below(counts, self._ids[positions[found]], seed, epoch)
                vectors[found] = self._gather(starts + drawn)
            case "mean":
                vectors[found] = self._average(starts, counts)
            case _:
                raise ConfigError(unknown_name("choice of texts", choose, list(get_args(TextChoice))))
        return vectors

    def all_vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return the vectors of all texts of the images at positions [B], image by image, float32 [K, D]."""
        return np.asarray(self.vectors[self.all_rows(positions)[1]], dtype=np.float32)

    def all_rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List all texts of the images at positions [B], image by image.

        Returns:
            The index in `positions` that each text belongs to, int64 [K], and its row in `vectors`, int64 [K].
        """
        starts = self._offsets[positions]
        counts = self._offsets[positions + 1] - starts
        ahead = np.cumsum(counts) - counts  # texts of the images before
        places = np.repeat(starts - ahead, counts) + np.arange(counts.sum())
        return np.repeat(np.arange(len(positions)), counts), np.asarray(self._rows[places])

    def _average(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        # float64 sums of float16 values are exact, so a mean does not depend on the batch it is computed in.
        sums = self._gather(starts).astype(np.float64)
        for number in range(1, counts.max(initial=0)):
            more = counts > number
            sums[more] += self._gather(starts[more] + number)
        several = counts > 1
        sums[several] /= np.maximum(np.linalg.norm(sums[several], axis=1, keepdims=True), 1e-12)
        return sums.astype(np.float32)

    def _gather(self, places: np.ndarray) -> np.ndarray:
        return np.asarray(self.vectors[self._rows[places]], dtype=np.float32)

    def check(self, descriptions: DescriptionSet) -> None:
        """Raise `StoreError` if the store was made from other descriptions."""
        if self.manifest.text_hash != descriptions.text_hash:
            raise StoreError(
                f"The embeddings in {self.layout.folder} were made from other descriptions "
                f"({self.manifest.texts:,} for {self.manifest.images:,} images; now {descriptions.texts:,} for "
                f"{len(descriptions):,} from {descriptions.source}). Update them: gpt4image embed, with the same "
                "options."
            )


def draw_below(counts: np.ndarray, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draw one integer in [0, count) for each count, uniformly, int64 [B].

    The draw is a hash of seed, epoch and id, so it does not depend on the batch, the worker or the number of processes.

    Args:
        counts: int64 [B], from 1 to 2**32 - 1.
        ids: image ids, S32 [B].
        seed: seed of the draws.
        epoch: each epoch draws anew.
    """
    words = np.ascontiguousarray(ids, dtype="S32").view("<u8").reshape(-1, 4)
    hashed = np.zeros(len(words), dtype=np.uint64)
    for word in (np.uint64(seed % 2**64), np.uint64(epoch % 2**64), *words.T):
        hashed = mix_bits((hashed ^ word) + np.uint64(SPLITMIX_INCREMENT))
    fraction = hashed >> np.uint64(32)  # of 2**32
    return np.asarray(fraction * counts.astype(np.uint64) >> np.uint64(32), dtype=np.int64)


def mix_bits(words: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words, uint64 [B], bijectively: the finalizer of SplitMix64.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with the constants of
    Stafford's variant 13.

    >>> hex(mix_bits(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0])
    '0xe220a8397b1dcdaf'
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
