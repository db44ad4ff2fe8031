"""Several sources as one image set: a labelled one, and further images without labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.errors import DataError, ImageError
from gpt4image.images.sources.label_sets import UNKNOWN
from gpt4image.images.sources.listing import Listing, to_label_column
from gpt4image.images.table import ImageReader, RejectedImage


def join_listings(first: Listing, further: Mapping[str, Listing]) -> Listing:
    """Add the images of further sources to a listing.

    Args:
        first: the listing that names the classes.
        further: unlabelled listings by the name of their source, with which the paths of their images then begin.

    Raises:
        DataError: some are clips and others are not.
    """
    if not further:
        return first
    for name, listing in further.items():
        if listing.frames != first.frames:
            kinds = [("clips" if each.frames else "images") for each in (listing, first)]
            raise DataError(
                f"{name} contains {kinds[0]}, and the labelled source {kinds[1]}: name sources of the same kind."
            )
    listings = [first, *further.values()]
    prefixes = ["", *(f"{name.rstrip('/')}/" for name in further)]
    starts, tables, next_row = [], [], 0
    for prefix, listing in zip(prefixes, listings, strict=True):
        starts.append(next_row)
        rows = listing.rows
        path = pc.binary_join_element_wise(prefix, rows["path"], "")
        row = pc.add(rows["row"], next_row)
        if len(rows):
            next_row = pc.max(row).as_py() + 1
        if first.has_label_sets and not listing.has_label_sets:
            unknown = to_label_column(np.full((len(rows), len(first.classes)), UNKNOWN))
            rows = rows.set_column(rows.schema.get_field_index("label"), "label", unknown)
        for name in (name for name in first.rows.schema.names if name not in rows.schema.names):  # boxes
            rows = rows.append_column(name, pa.nulls(len(rows), first.rows.schema.field(name).type))
        tables.append(rows.set_column(0, "path", path).set_column(rows.schema.get_field_index("row"), "row", row))

    def of_all(images: Sequence[tuple[RejectedImage, ...]]) -> tuple[RejectedImage, ...]:
        pairs = zip(prefixes, images, strict=True)
        return tuple(replace(image, path=prefix + image.path) for prefix, found in pairs for image in found)

    return Listing(
        rows=pa.concat_tables(tables),
        classes=first.classes,
        reader=JoinedReader(tuple(each.reader for each in listings), tuple(prefixes), tuple(starts)),
        bad=of_all([each.bad for each in listings]),
        others=of_all([each.others for each in listings]),
        rejected_boxes=first.rejected_boxes,
        clipped_boxes=first.clipped_boxes,
        frames=first.frames,
    )


@dataclass(frozen=True)
class JoinedReader:
    """Reads images from several sources, whose rows are counted on from one to the next.

    Attributes:
        readers: readers of the sources.
        prefixes: what each source's paths begin with.
        starts: number of each source's first row.
    """

    readers: tuple[ImageReader, ...]
    prefixes: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the columns that hold text in any of the sources."""
        return tuple(dict.fromkeys(column for reader in self.readers for column in reader.text_columns))

    def read(self, path: str, row: int) -> bytes:
        """Return the encoded bytes of one image. ImageError names the image if they cannot be read."""
        number = bisect_right(self.starts, row) - 1
        prefix = self.prefixes[number]
        try:
            return self.readers[number].read(path.removeprefix(prefix), row - self.starts[number])
        except ImageError as error:
            raise ImageError(f"{prefix}{error}") from error

    def texts(self, column: str, rows: Sequence[int]) -> list[str | None]:
        """Return a text column's values for some rows; None for those of sources without this column."""
        found: dict[int, str | None] = {}
        for number, reader in enumerate(self.readers):
            own = [row for row in rows if bisect_right(self.starts, row) - 1 == number]
            if own and column in reader.text_columns:
                values = reader.texts(column, [row - self.starts[number] for row in own])
                found.update(zip(own, values, strict=True))
        return [found.get(row) for row in rows]
