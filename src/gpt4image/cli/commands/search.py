"""Use the text space of a trained model: search by words, zero-shot classification, and a map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from gpt4image.cli.rows import print_table
from gpt4image.core.options import WORK, OutputOptions
from gpt4image.core.validation import Count, Whole, check_fields

COLUMNS, PAIR = ("score", "path", "class", "description"), ("class", "score")


@dataclass(frozen=True)
class SpaceOptions:
    """Model and images."""

    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Folder of the run. Default: the first run in the work directory that was aligned with texts."""
    work: Path = WORK
    """Work directory."""
    image_column: str | None = None
    """Column with the images, if it is not recognised."""
    max_pixels: Count = 89_478_485
    """Largest width x height to decode."""
    workers: Whole = 0
    """Processes that load images."""

    def __post_init__(self) -> None:
        check_fields(self)

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments of the library's functions, after checking that the run exists."""
        from gpt4image.train.identity import require_finished
        from gpt4image.train.spec import find_aligned_run

        require_finished(self.run_folder or find_aligned_run(self.work))
        names = ("work", "image_column", "max_pixels", "workers")
        return {"run": self.run_folder, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Search(OutputOptions):
    """Search images by words, with a model that was trained on descriptions.

    Prints a table of the most similar images: score (cosine similarity to the words, from -1 to 1), path, and class and
    description if known.
    """

    SHORT: ClassVar = ("run", "top", "html", "csv", "work")
    EXAMPLE: ClassVar = 'photos "a red tool with a wooden handle" --html found.html'
    KEYS: ClassVar = {
        "matches": "the images, best match first: score, path, class, description",
        "page": "path of the page, or null",
    }
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    query: tyro.conf.Positional[str]
    """What to look for."""
    top: Count = 12
    """Number of images to print."""
    html: Path | None = None
    """Also write the results to this page, with pictures."""
    csv: bool = False
    """Print CSV instead of tab-separated values."""
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Search, and print the table."""
        from gpt4image.core.console import result, say

        space = self.space.arguments()
        from gpt4image.workflows.search import search_images

        found = search_images(self.images, self.query, top=self.top, page=self.html, **space)
        rows = [(match.score, match.path, match.label, match.text) for match in found]
        print_table(COLUMNS, rows, self.csv)
        result(matches=[dict(zip(COLUMNS, row, strict=True)) for row in rows], page=self.html)
        if self.html is not None:
            say(f"page: {self.html}")


@dataclass(frozen=True)
class ZeroShot(OutputOptions):
    """Sort images into classes that the model was never trained on.

    Compares each image with texts that describe the classes, in the text space of a model that was trained on
    descriptions. Prints a table with a row for each image: its path, and the classes with their scores (cosine
    similarities). For images with a known class, also prints how many answers are right.
    """

    SHORT: ClassVar = ("classes", "run", "top", "csv", "work")
    EXAMPLE: ClassVar = "new-photos --classes classes.txt"
    KEYS: ClassVar = {
        "images": "for each image: path, class (the given one, or null), and answers (class, score)",
        "accuracy": "share of right answers among images with a known class, with its interval; null if there are none",
        "checked": "number of images with a known class",
    }
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    classes: Path
    """File with the names of the classes, one per line, or a table with the columns class and text, whose texts
    describe the classes."""
    top: Count = 3
    """Number of classes to print."""
    csv: bool = False
    """Print CSV instead of tab-separated values."""
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Classify the images, and print the table."""
        from gpt4image.core.console import result, say
        from gpt4image.core.format import counted, percent

        space = self.space.arguments()
        from gpt4image.workflows.search import answer_zero_shot

        found = answer_zero_shot(self.images, self.classes, top=self.top, **space)
        top = len(found.answers[0].answers)
        columns = ["path", *(f"{part}_{number}" for number in range(1, top + 1) for part in ("class", "score"))]
        rows = [[each.path, *(cell for pair in each.answers for cell in pair)] for each in found.answers]
        print_table(columns, rows, self.csv)
        images = [
            {
                "path": each.path,
                "class": each.label,
                "answers": [dict(zip(PAIR, pair, strict=True)) for pair in each.answers],
            }
            for each in found.answers
        ]
        result(images=images, accuracy=found.accuracy, checked=found.checked)
        if found.accuracy:
            low, high = percent(found.accuracy.low), percent(found.accuracy.high)
            say(
                f"right: {percent(found.accuracy.mean)} ({low} to {high}) of {counted(found.checked, 'image')} whose "
                "class is known"
            )


@dataclass(frozen=True)
class Map(OutputOptions):
    """Draw a map of images in text space; pointing at an image shows it with its text.

    Images with similar descriptions, according to a model trained on descriptions, are close together. The page loads
    nothing from the network.
    """

    EXAMPLE: ClassVar = "photos --out map.html"
    KEYS: ClassVar = {"map": "path of the page"}
    images: tyro.conf.Positional[str]
    """Images of any source, or a folder of images without classes."""
    out: Path
    """The page to write."""
    method: Literal["tsne", "pca"] = "tsne"
    """t-SNE keeps neighbours together; principal components (pca) keep large distances."""
    most: Count = 2000
    """Maximum number of images on the map. If there are more, they are chosen at random."""
    seed: Whole = 0
    """Seed of the random choice and of t-SNE."""
    space: SpaceOptions = field(default_factory=SpaceOptions)

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Write the page and print where it is."""
        from gpt4image.core.console import result, show

        settings = {"method": self.method, "most": self.most, "seed": self.seed, **self.space.arguments()}
        from gpt4image.workflows.search import map_images

        page = map_images(self.images, self.out, **settings)
        show(f"map: {page}")
        result(map=page)
