"""The embedding store: one vector a distinct text, found by image id, read through a memory map by every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.describe.descriptions import DescriptionSet
from gpt4image.errors import StoreError
from gpt4image.files import read_json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EmbeddingLayout:
    """Where the parts of a store lie.

    Attributes:
        folder: the store's folder.
    """

    folder: Path

    @property
    def manifest(self) -> Path:
        """What the vectors are; written last, so a store with a manifest is whole."""
        return self.folder / "manifest.json"

    @property
    def vectors(self) -> Path:
        """Unit vectors of the distinct texts, float16 [M, D]."""
        return self.folder / "vectors.npy"

    @property
    def texts(self) -> Path:
        """Hash of each vector's text, S32 [M]."""
        return self.folder / "texts.npy"

    @property
    def ids(self) -> Path:
        """Image ids in rising order, S32 [N]."""
        return self.folder / "ids.npy"

    @property
    def rows(self) -> Path:
        """Row in `vectors` of each image id, int64 [N]."""
        return self.folder / "rows.npy"


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        encoder: name of the text encoder.
        revision: hash of its weights.
        width: length D of a vector.
        max_tokens: tokens it reads of a text.
        long_text: what was done with longer texts, `truncate` or `pool`.
        text_hash: hash of the image ids and texts.
        images: number N of image ids.
        distinct_texts: number M of vectors.
        truncated: texts of which the end was not read.
        longest: the longest of them: tokens by image id.
    """

    encoder: str
    revision: str
    width: int
    max_tokens: int
    long_text: str
    text_hash: str
    images: int
    distinct_texts: int
    truncated: int
    longest: dict[str, int]

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
            self._rows: np.ndarray = np.load(self.layout.rows, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.layout.folder} is damaged ({error}). Delete the folder and embed again.") from None
        if self.vectors.shape != (self.manifest.distinct_texts, self.manifest.width):
            raise StoreError(f"{self.layout.vectors} does not fit its manifest. Delete the folder and embed again.")

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

    def rows(self, ids: Sequence[str | bytes] | np.ndarray) -> np.ndarray:
        """Rows in `vectors` of image ids, int64 [B]; -1 for images without text."""
        wanted = np.asarray(ids, dtype="S32")
        if not len(self._ids):
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        return np.where(self._ids[at] == wanted, self._rows[at], -1)

    def lookup(self, ids: Sequence[str | bytes] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Text vectors [B, D], float32, and which images have one, bool [B]; vectors of the others are zero."""
        import torch

        rows = self.rows(ids)
        return torch.from_numpy(self.take(rows)), torch.from_numpy(rows >= 0)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Vectors [B, D], float32, of rows [B]; zero where a row is -1."""
        found = rows >= 0
        vectors = np.zeros((len(rows), self.width), dtype=np.float32)
        vectors[found] = self.vectors[rows[found]]
        return vectors

    def check(self, descriptions: DescriptionSet) -> None:
        """StoreError when the store was made of other descriptions than these."""
        if self.manifest.text_hash != descriptions.text_hash:
            raise StoreError(
                f"The embeddings in {self.layout.folder} were made of other descriptions "
                f"({self.manifest.images:,} images; now "
                f"{len(descriptions):,} from {descriptions.source}). Bring them up to date: gpt4image "
                "embed, with the same options."
            )
