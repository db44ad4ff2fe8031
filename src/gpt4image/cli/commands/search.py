"""Use of the text space of a trained model: search by words, zero-shot answers, and a map."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import WORK
from gpt4image.core.validation import Count, Whole, check_fields


@dataclass(frozen=True)
class SpaceOptions:
    """Model and images."""

    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder of the run. Default: the first in the work directory that was aligned with texts."""
    work: Path = WORK
    """Work directory."""
    image_column: str | None = None
    """Column that holds the images, if it cannot be recognised."""
    max_pixels: Count = 89_478_485
    """Largest width x height to decode."""
    workers: Whole = 0
    """Processes that load images."""

    def __post_init__(self) -> None:
        check_fields(self)

    def arguments(self) -> dict[str, Any]:
        """Return them as the library's functions take them."""
        names = ("work", "image_column", "max_pixels", "workers")
        return {"run": self.run_folder, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class TableOptions:
    """Form of the table."""

    csv: bool = False
    """Separate by commas and quote as CSV, instead of by tabs."""
    json: bool = False
    """Print a JSON object per line."""

    def __post_init__(self) -> None:
        if self.csv and self.json:
            raise ConfigError("csv and json are two forms of the same table (--csv, --json): choose one.")

    def print(self, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Print rows under their columns; scores with three decimals."""
        from gpt4image.core.console import write
        from gpt4image.core.format import printable

        for cells in [columns, *rows]:
            if self.json:
                if cells is not columns:
                    write(json.dumps(dict(zip(columns, cells, strict=True))))
                continue
            texts = ["" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells]
            if not self.csv or sys.stdout.isatty():
                texts = list(map(printable, texts))
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow(texts)
            write(line.getvalue() if self.csv else "\t".join(texts))


@dataclass(frozen=True)
class Search:
    """Search images by words, with a model that was trained on descriptions.

    Prints a table of the most similar images: score (cosine similarity to the words, from -1 to 1), path, class and
    description, as far as these are known.
    """

    SHORT: ClassVar = ("run", "top", "html", "csv", "json", "work")
    EXAMPLE: ClassVar = 'photos "a red tool with a wooden handle" --html found.html'
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    query: tyro.conf.Positional[str]
    """What to look for."""
    top: Count = 12
    """Number of images to print."""
    html: Path | None = None
    """Also write them as a page with pictures."""
    table: TableOptions = field(default_factory=TableOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Search, and print the table."""
        from gpt4image.core.console import say
        from gpt4image.workflows.search import search_images

        found = search_images(self.images, self.query, top=self.top, page=self.html, **self.space.arguments())
        rows = [(match.score, match.path, match.label, match.text) for match in found]
        self.table.print(("score", "path", "class", "description"), rows)
        if self.html is not None:
            say(f"page: {self.html}")


@dataclass(frozen=True)
class ZeroShot:
    """Sort images into classes that the model was never trained on.

    Compares each image with texts that describe the classes, in the text space of a model that was trained on
    descriptions. Prints a table with a row for each image: its path, then classes and their scores (cosine
    similarities). For images with a known class, also prints how many answers are right.
    """

    SHORT: ClassVar = ("classes", "run", "top", "csv", "json", "work")
    EXAMPLE: ClassVar = "new-photos --classes classes.txt"
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    classes: Path
    """File with the classes' names, one per line, or a table with the columns class and text, whose texts describe
    them."""
    top: Count = 3
    """Number of classes to print."""
    table: TableOptions = field(default_factory=TableOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Answer, and print the table."""
        from gpt4image.core.console import say
        from gpt4image.core.format import counted, percent
        from gpt4image.workflows.search import answer_zero_shot

        found = answer_zero_shot(self.images, self.classes, top=self.top, **self.space.arguments())
        top = len(found.answers[0].answers)
        columns = ["path", *(f"{part}_{number}" for number in range(1, top + 1) for part in ("class", "score"))]
        self.table.print(columns, [[each.path, *(c for pair in each.answers for c in pair)] for each in found.answers])
        if found.accuracy:
            low, high = percent(found.accuracy.low), percent(found.accuracy.high)
            say(
                f"right: {percent(found.accuracy.mean)} ({low} to {high}) of {counted(found.checked, 'image')} whose "
                "class is known"
            )


@dataclass(frozen=True)
class Map:
    """Draw a map of images in text space; pointing at one shows picture and text.

    Images that a model trained on descriptions describes alike lie close together. The page loads nothing.
    """

    EXAMPLE: ClassVar = "photos --out map.html"
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    out: Path
    """The page to write."""
    method: Literal["tsne", "pca"] = "tsne"
    """t-SNE keeps neighbours together, principal components keep distances in the large."""
    most: Count = 2000
    """Number of images on the map, a random choice of more."""
    seed: Whole = 0
    """Seed of that choice and of t-SNE."""
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Write the page and print where it is."""
        from gpt4image.core.console import show
        from gpt4image.workflows.search import map_images

        settings = {"method": self.method, "most": self.most, "seed": self.seed, **self.space.arguments()}
        show(f"map: {map_images(self.images, self.out, **settings)}")
