"""The splits stored in a work directory, so that adding images does not move others between splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from gpt4image.core.errors import StoreError
from gpt4image.core.files import atomic_write, exclusive
from gpt4image.images.table import SPLITS

_SCHEMA = pa.schema({"id": pa.string(), "split": pa.string(), "source": pa.string()})


@contextmanager
def open_kept_split(work: Path, shares: Mapping[str, float], seed: int) -> Iterator[KeptSplit]:
    """Open the stored split for some shares and a seed; other processes wait.

    Args:
        work: the work directory.
        shares: share of each split that is made.
        seed: seed of the choice.

    Raises:
        StoreError: the file is damaged.
    """
    name = "-".join(f"{split}-{float(share)!r}" for split, share in sorted(shares.items()))
    file = work / "images" / f"split-{name}-seed-{seed}.csv"
    with exclusive(file.with_name(".split.lock"), f"the splits in {work}", wait=True):
        yield KeptSplit(file, _read(file) if file.exists() else _SCHEMA.empty_table())


def _read(file: Path) -> pa.Table:
    remedy = "It records which images are for testing: restore it from a copy, or delete it to split the images again."
    try:
        rows = csv.read_csv(
            file,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=_SCHEMA, include_columns=_SCHEMA.names),
        )
    except (pa.ArrowException, KeyError, OSError) as error:
        raise StoreError(f"{file} cannot be read ({error}). {remedy}") from None
    unknown = set(rows["split"].unique().to_pylist()) - set(SPLITS)
    if unknown:
        raise StoreError(
            f"{file} contains the unknown split {unknown.pop()!r}; splits are {', '.join(SPLITS)}. {remedy}"
        )
    return rows


@dataclass(frozen=True)
class KeptSplit:
    """The stored split of each labelled image.

    Attributes:
        file: its CSV file.
        rows: columns `id`, `split`, and `source`, the source that first held the image.
    """

    file: Path
    rows: pa.Table

    def look_up(self, ids: np.ndarray) -> np.ndarray:
        """Return the splits of images [N], "" for unknown ones."""
        places = pc.index_in(_strings(ids), value_set=self.rows["id"].combine_chunks())
        found = self.rows["split"].combine_chunks().take(places)
        return np.asarray(pc.fill_null(found, "").to_numpy(zero_copy_only=False), dtype=str)

    def count_gone(self, ids: np.ndarray, source: str) -> int:
        """Return how many images of a source are not among `ids`."""
        own = self.rows["id"].filter(pc.equal(self.rows["source"], source))
        return int(pc.sum(pc.invert(pc.is_in(own, value_set=_strings(ids)))).as_py() or 0)

    def add(self, ids: np.ndarray, splits: np.ndarray, source: str) -> None:
        """Store the splits of further images, atomically."""
        if not len(ids):
            return
        new = pa.table([_strings(ids), pa.array(splits, pa.string()), pa.repeat(source, len(ids))], schema=_SCHEMA)
        with atomic_write(self.file) as file:
            # Written as one chunk: if the first chunk is empty, pyarrow 16 writes the header twice.
            csv.write_csv(pa.concat_tables([self.rows, new]).combine_chunks(), file)


def _strings(ids: np.ndarray) -> pa.Array:
    return pa.array(ids, pa.binary()).cast(pa.string())  # avoids a Unicode array, which takes four times the memory
