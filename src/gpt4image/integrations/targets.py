"""Join descriptions to any dataset, by the bytes or the paths of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from gpt4image.align.head import Targets
from gpt4image.core.console import progress, say
from gpt4image.core.errors import ConfigError, DataError, DescriptionError
from gpt4image.core.options import WORK, TextOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import join_texts
from gpt4image.embed.store import EmbeddingLayout, EmbeddingStore
from gpt4image.images.scan import image_id
from gpt4image.images.table import ImageTable
from gpt4image.workflows.inputs import find_descriptions, open_embeddings

INDEX = "text_index"
"""Key of the position in the dataset, in samples that are dictionaries."""


ROOTS = 4
"""Number of folders that captions may be relative to: that of the images, and those above it."""


class MapDataset(Protocol):
    """A dataset whose samples have positions."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401 - a sample is whatever the dataset makes of it


class DatasetImage(NamedTuple):
    """An image of a dataset: its path, empty if it has none, and a function that returns its encoded bytes."""

    path: str
    read: Callable[[], bytes]


class TextTargets:
    """The text vectors of a dataset, by position. Its length is the number of images of the dataset.

    Args:
        store: the vectors.
        ids: image id of each sample, S32 [N].

    Attributes:
        store: the vectors.
        ids: the image ids.
        described: number of samples with a text.
        width: length D of a vector.

    Raises:
        DescriptionError: no sample has a text.
    """

    def __init__(self, store: EmbeddingStore, ids: np.ndarray) -> None:
        self.store, self.ids = store, ids
        self._numbers = torch.from_numpy(np.unique(ids, return_inverse=True)[1]).long()  # equal for copies of an image
        self.described = int((store.find(ids) >= 0).sum())
        self.width = store.width
        if not self.described:
            raise DescriptionError(
                f"None of the {len(ids):,} images has a vector in {store.layout.folder}. Images are recognised by "
                "their encoded bytes: if yours were converted or resized, pass one text per image instead."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor | Sequence[int]) -> Targets:
        """Return the alignment targets of the samples at positions [B] (`AlignmentHead.align`)."""
        positions = torch.as_tensor(index).cpu()
        vectors, known = self.store.lookup(self.ids[positions.numpy()])
        return Targets((vectors,), (known,), ids=self._numbers[positions])

    def indexed(self, dataset: MapDataset) -> IndexedDataset:
        """Return the dataset with its position added to each sample.

        Raises:
            ConfigError: the dataset has a different length.
        """
        if len(dataset) != len(self):
            raise ConfigError(
                f"The dataset has {len(dataset):,} samples, the targets were made for {len(self):,}: "
                "make them again, text_targets(dataset)."
            )
        return IndexedDataset(dataset)


class IndexedDataset(torch.utils.data.Dataset[Any]):
    """A dataset whose samples end with their position; in dictionaries, the position has the key `INDEX`.

    >>> IndexedDataset([("picture", 3)])[0]
    ('picture', 3, 0)
    """

    def __init__(self, dataset: MapDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - as the dataset
        sample = self._dataset[index]
        if isinstance(sample, dict):
            return {**sample, INDEX: index}
        return (*sample, index) if isinstance(sample, tuple | list) else (sample, index)


def text_targets(
    data: Any,  # noqa: ANN401 - see `pictures`
    texts: str | Path | Sequence[str | None] | None = None,
    *,
    encoder: str = "minilm",
    work: str | Path = WORK,
) -> TextTargets:
    """Join descriptions to a dataset, embedding those that have no vector yet.

    Args:
        data: paths of image files, or a dataset that knows its files: torchvision's `ImageFolder`, timm's
            `ImageDataset`, a `Dataset` of `datasets` with an image column, anything with `samples`, `imgs`, `files` or
            `items`; also a `Subset` or `ConcatDataset` of these. Images are recognised by their encoded bytes.
        texts: one text or None for each sample; or a table keyed by path or image id (CSV, TSV, JSON Lines, Parquet or
            Arrow); or a work directory of `gpt4image describe`; or a folder of vectors by `gpt4image embed`. By
            default the descriptions in `work`.
        encoder: the text encoder, as `load_encoder` takes it.
        work: the work directory, which keeps the vectors.

    Raises:
        DataError: the images cannot be found or read.
        DescriptionError: no image has a text.
    """
    images = image_table(data)
    options = TextOptions(encoder=(encoder,), orphan_texts="skip")  # a dataset may have only some of the images
    if isinstance(texts, str | Path):
        if EmbeddingLayout(Path(texts)).manifest.exists():
            return TextTargets(EmbeddingStore(texts), images.ids)
        options = replace(options, text=str(texts))
    if texts is None or isinstance(texts, str | Path):
        tables = [images] if texts is None else list(roots(images))
        descriptions = max((find_descriptions(table, options, WorkDir(Path(work))) for table in tables), key=len)
    else:
        if len(texts) != len(images):
            raise DescriptionError(f"There are {len(texts):,} texts for {len(images):,} images.")
        pairs = zip(images.rows["id"].to_pylist(), texts, strict=True)
        descriptions = join_texts(images, [(name, text) for name, text in pairs if text], 0, "the texts given")
    say(descriptions.coverage.line())
    # the work directory may hold vectors of another set of images, so these get a work directory of their own
    own = WorkDir(Path(work) / "integrations" / descriptions.text_hash[:12])
    return TextTargets(open_embeddings(descriptions, options, own)[0], images.ids)


def roots(images: ImageTable) -> Iterator[ImageTable]:
    """Yield the images with paths relative to their folder, then to each folder above it.

    Captions may be keyed by paths relative to the whole set, of which a dataset may be only one folder.
    """
    paths, folder = images.rows["path"].to_pylist(), Path(images.source)
    for level in range(min(ROOTS, len(folder.parts)) if folder.is_absolute() else 1):
        above = "/".join(folder.parts[len(folder.parts) - level :])
        column = pa.array([f"{above}/{path}" if above else path for path in paths])
        yield replace(images, rows=images.rows.set_column(images.rows.schema.get_field_index("path"), "path", column))


def image_table(data: Any) -> ImageTable:  # noqa: ANN401 - see `pictures`
    """Read all images of a dataset once and return their table, without labels and all in the split `train`.

    Raises:
        DataError: the images cannot be found or read.
    """
    found = list(pictures(data))
    if not found:
        raise DataError("The dataset has no images.")
    ids: list[str] = []
    with ThreadPoolExecutor() as pool, progress("images", len(found)) as meter:
        for name in pool.map(lambda picture: image_id(read(picture)), found):
            ids.append(name)
            meter.advance()
    paths = [picture.path for picture in found]
    files = [str(Path(path).absolute().parent) for path in paths if path]
    root = os.path.commonpath(files) if files else ""
    rows = {
        "id": pa.array(ids, pa.string()),
        "path": pa.array([os.path.relpath(path, root) if path else str(row) for row, path in enumerate(paths)]),
        "label": pa.array([-1] * len(ids), pa.int32()),
        "split": pa.array(["train"] * len(ids)),
        "row": pa.array(range(len(ids)), pa.int64()),
    }
    return ImageTable(root or type(data).__name__, (), pa.table(rows), (), PictureReader(found))


class PictureReader:
    """Reads the images of a dataset by position; it has no text columns."""

    text_columns: tuple[str, ...] = ()

    def __init__(self, found: Sequence[DatasetImage]) -> None:
        self._found = found

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image."""
        return read(self._found[row])

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """There are none."""
        raise DataError(f"A dataset has no text column {column!r}.")


def read(picture: DatasetImage) -> bytes:
    """Return the encoded bytes of an image. DataError names the file if it cannot be read."""
    try:
        return picture.read()
    except OSError as error:
        raise DataError(
            f"{picture.path or 'An image of the dataset'} cannot be read: {error.strerror or error}"
        ) from None


def pictures(data: Any) -> Iterator[DatasetImage]:  # noqa: ANN401 - any dataset
    """Yield the images of a dataset in its order.

    Raises:
        DataError: the dataset does not say where its images are.
    """
    match data:
        case torch.utils.data.Subset():
            chosen = list(pictures(data.dataset))
            yield from (chosen[index] for index in data.indices)
        case torch.utils.data.ConcatDataset():
            for part in data.datasets:
                yield from pictures(part)
        case IndexedDataset():
            yield from pictures(data._dataset)
        case _ if hasattr(data, "features") and hasattr(data, "cast_column"):
            yield from pictures_of_table(data)
        case _:
            yield from (picture_of(entry) for entry in entries(data))


def entries(data: Any) -> Sequence[Any]:  # noqa: ANN401 - any dataset
    """Return the list of files in a dataset or in its reader (timm); a list is returned as it is."""
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return data
    if hasattr(data, "filenames") and hasattr(data, "reader"):  # timm
        names: Sequence[Any] = data.filenames(absolute=True)
        return names
    for name in ("samples", "imgs", "items", "files"):
        found = getattr(data, name, None)
        if found is not None and not callable(found):
            return list(found)
    raise DataError(
        f"{type(data).__name__} does not say where its images are: pass the list of their paths, in its order."
    )


def picture_of(entry: Any) -> DatasetImage:  # noqa: ANN401 - an entry of any dataset
    """Return the image of an entry: a path, encoded bytes, or a tuple that begins with one of them."""
    match entry:
        case tuple() | list() if entry:
            return picture_of(entry[0])
        case bytes():
            return DatasetImage("", lambda: entry)
        case str() | os.PathLike():
            return DatasetImage(os.fspath(entry), Path(entry).read_bytes)
    raise DataError(f"An image must be a path or encoded bytes, not {type(entry).__name__}.")


def pictures_of_table(data: Any) -> Iterator[DatasetImage]:  # noqa: ANN401 - a `datasets.Dataset`
    """Yield the encoded images of a `datasets.Dataset` in order."""
    import datasets

    columns = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        named = ", ".join(columns) or "none"
        raise DataError(f"The dataset must have one image column, not {named}: remove_columns the others.")
    encoded = data.with_format(None).select_columns(columns).cast_column(columns[0], datasets.Image(decode=False))

    def read_cell(row: int) -> bytes:
        cell = encoded[row][columns[0]]
        data = cell["bytes"]
        return Path(cell["path"]).read_bytes() if data is None else bytes(data)

    paths = (
        path
        for batch in encoded.with_format("arrow").iter(batch_size=256)
        for path in pc.struct_field(batch[columns[0]], "path").to_pylist()
    )
    return (DatasetImage(path or "", partial(read_cell, row)) for row, path in enumerate(paths))
