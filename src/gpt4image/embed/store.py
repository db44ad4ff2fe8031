"""The embedding store: one vector a distinct text, found by image id, read through a memory map by every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from gpt4image.core.errors import ConfigError, StoreError
from gpt4image.core.files import File, Layout, read_json
from gpt4image.core.registry import unknown_name
from gpt4image.descriptions.description_set import DescriptionSet

if TYPE_CHECKING:
    from torch import Tensor


GAMMA = 0x9E3779B97F4A7C15


"""Keeps words of zeros from being lost: SplitMix64's increment."""


def draw_below(counts: np.ndarray, ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """One number from 0 to below each count, all equally likely, int64 [B].

    Args:
        counts: the counts, int64 [B], from 1 to below 2**32.
        ids: image ids, S32 [B].
        seed: seed of the draws.
        epoch: another epoch draws anew.
    """
    words = np.ascontiguousarray(ids, dtype="S32").view("<u8").reshape(-1, 4)
    hashed = np.zeros(len(words), dtype=np.uint64)
    for word in (np.uint64(seed % 2**64), np.uint64(epoch % 2**64), *words.T):
        hashed = mix_bits((hashed ^ word) + np.uint64(GAMMA))
    share = hashed >> np.uint64(32)  # of 2**32
    return np.asarray(share * counts.astype(np.uint64) >> np.uint64(32), dtype=np.int64)


def mix_bits(words: np.ndarray) -> np.ndarray:
    """Scramble words of 64 bits, uint64 [B], one to one: the last step of SplitMix64.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, with the constants of
    Stafford's variant 13.

    >>> hex(mix_bits(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0])
    '0xe220a8397b1dcdaf'
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


TextChoice = Literal["mean", "random"]


"""What stands for an image with several texts: the unit mean of their vectors, or one of them drawn by chance."""


StoreKind = Literal["text", "images"]


"""Whether the vectors are those of texts, or of the images themselves, by a vision teacher."""


class EmbeddingLayout(Layout):
    """Files of an embedding store."""

    manifest = File("manifest.json")
    """What the vectors are; written last, so a store with a manifest is whole."""
    vectors = File("vectors.npy")
    """Unit vectors of the distinct texts, float16 [M, D]."""
    texts = File("texts.npy")
    """Hash of each vector's text, S32 [M]."""
    ids = File("ids.npy")
    """Image ids in rising order, S32 [N]."""
    offsets = File("offsets.npy")
    """Where in `rows` the texts of each image begin, and after the last where they end, int64 [N + 1]."""
    rows = File("rows.npy")
    """Row in `vectors` of each text of each image, int64 [K]."""


@dataclass(frozen=True)
class Manifest:
    """What a store holds. In one of images, what is said of texts is meant of views of images.

    Attributes:
        encoder: name of the text encoder or vision teacher.
        revision: hash of its weights.
        width: length D of a vector.
        max_tokens: tokens it reads of a text.
        long_text: what was done with longer texts, `truncate` or `pool`.
        text_hash: hash of the image ids and texts.
        images: number N of image ids.
        distinct_texts: number M of vectors.
        texts: number K of texts, one that several images share counted for each.
        truncated: texts of which the end was not read.
        longest: the longest of them: tokens by image id.
        kind: what the vectors are of.
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
    kind: StoreKind = "text"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)


class EmbeddingStore:
    """Text vectors by image id. Opens in no time and copies nothing, whatever its size.

    Args:
        folder: a finished store.

    Raises:
        StoreError: there is no finished store in the folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self.layout = EmbeddingLayout(Path(folder))
        if not self.layout.manifest.exists():
            raise StoreError(f"{folder} holds no finished embeddings. Make them: gpt4image embed DATA --work WORK.")
        try:
            self.manifest = Manifest(**read_json(self.layout.manifest))
        except TypeError as error:
            raise StoreError(
                f"{self.layout.manifest} is of another version ({error}). Delete the folder and embed again."
            ) from None
        self._map()

    def _map(self) -> None:
        try:
            self.vectors: np.ndarray = np.load(self.layout.vectors, mmap_mode="r")
            self._ids: np.ndarray = np.load(self.layout.ids, mmap_mode="r")
            self._offsets: np.ndarray = np.load(self.layout.offsets, mmap_mode="r")
            self._rows: np.ndarray = np.load(self.layout.rows, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{self.layout.folder} is damaged ({error}). Delete the folder and embed again.") from None
        known = self.manifest
        wanted = (known.distinct_texts, known.width), (known.images,), (known.images + 1,), (known.texts,)
        if wanted != tuple(array.shape for array in (self.vectors, self._ids, self._offsets, self._rows)):
            raise StoreError(f"{self.layout.folder} does not fit its manifest. Delete the folder and embed again.")

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
        """Positions of image ids in the store, int64 [B]; -1 for images without text."""
        return find_sorted(self._ids, np.asarray(ids, dtype="S32"))

    def lookup(
        self, ids: Sequence[str | bytes] | np.ndarray, choose: TextChoice = "mean", seed: int = 0, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Text vectors of images.

        Args:
            ids: image ids [B].
            choose: of several texts of an image, the unit mean of their vectors (`mean`), or one that is drawn from
                seed, epoch and image id alone (`random`).
            seed: seed of the draws.
            epoch: another epoch draws anew.

        Returns:
            Unit vectors [B, D], float32, and which images have a text, bool [B]; vectors of the others are zero.

        Raises:
            ConfigError: `choose` is neither.
        """
        import torch

        positions = self.find(ids)
        return torch.from_numpy(self.take(positions, choose, seed, epoch)), torch.from_numpy(positions >= 0)

    def take(self, positions: np.ndarray, choose: TextChoice = "mean", seed: int = 0, epoch: int = 0) -> np.ndarray:
        """Vectors [B, D], float32, of the images at positions [B] that `find` found; zero where a position is -1."""
        found = positions >= 0
        vectors = np.zeros((len(positions), self.width), dtype=np.float32)
        vectors[found] = self._choose(positions[found], choose, seed, epoch)
        return vectors

    def all_vectors(self, positions: np.ndarray) -> np.ndarray:
        """Vectors of all texts of the images at positions [B] that the store has, float32 [K, D], image by image."""
        return np.asarray(self.vectors[self.all_rows(positions)[1]], dtype=np.float32)

    def all_rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All texts of the images at positions [B] that the store has, image by image.

        Returns:
            Which of the images each text belongs to, int64 [K], and its row among the vectors, int64 [K].
        """
        starts = self._offsets[positions]
        counts = self._offsets[positions + 1] - starts
        ahead = np.cumsum(counts) - counts
        places = np.repeat(starts - ahead, counts) + np.arange(counts.sum())
        return np.repeat(np.arange(len(positions)), counts), np.asarray(self._rows[places])

    def _choose(self, positions: np.ndarray, choose: TextChoice, seed: int, epoch: int) -> np.ndarray:
        starts = self._offsets[positions]
        counts = self._offsets[positions + 1] - starts
        match choose:
            case "random":
                return self._gather(starts + draw_below(counts, self._ids[positions], seed, epoch))
            case "mean":
                return self._average(starts, counts)
            case _:
                raise ConfigError(unknown_name("choice of texts", choose, list(get_args(TextChoice))))

    def _average(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        # float64 holds the sums exactly, so that no mean depends on the batch that it is computed in
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
        """StoreError when the store was made of other descriptions than these."""
        if self.manifest.text_hash != descriptions.text_hash:
            raise StoreError(
                f"The embeddings in {self.layout.folder} were made of other descriptions "
                f"({self.manifest.texts:,} of {self.manifest.images:,} images; now {descriptions.texts:,} of "
                f"{len(descriptions):,} from {descriptions.source}). Bring them up to date: gpt4image embed, with the "
                "same options."
            )


def find_sorted(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions of ids [B] among ids in rising order [N], int64 [B]; -1 where there is none."""
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)
