"""Pages about images in text space: the result of a search, and a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from markupsafe import Markup

from gpt4image.core.format import shorten, single_line
from gpt4image.images.thumbnails import require_thumbnail
from gpt4image.report.html.page import load_script, render_page, write_page

MAX_TEXT = 300  # characters of a text on the map
MAX_NAMES = 40  # classes whose names the map shows
NAME_WIDTH, NAME_HEIGHT = 0.15, 0.032  # space of a name on the map


@dataclass(frozen=True)
class Match:
    """An image and how well it matches.

    Attributes:
        path: the image.
        score: cosine similarity to the query.
        label: its class, if it has one.
        text: its description, if it has one.
        thumbnail: a small image as a `data:` URL, if requested and readable.
    """

    path: str
    score: float
    label: str | None = None
    text: str | None = None
    thumbnail: str | None = None


@dataclass(frozen=True)
class MapPoint(Match):
    """An image on the map; x and y from 0 to 1."""

    x: float = 0.0
    y: float = 0.0


def write_search_page(path: Path, query: str, source: str, images: int, model: str, matches: Sequence[Match]) -> Path:
    """Write the result of a search.

    Args:
        path: the page.
        query: the search query.
        source: the images, as the user named them.
        images: number of images.
        model: name of the run.
        matches: the best matches, in descending order.

    Raises:
        ValueError: a thumbnail is not an image contained in the page.
    """
    for match in matches:
        require_thumbnail(match.thumbnail)
    page = render_page(
        "search.html.j2", version=_version(), query=query, source=source, images=images, model=model, matches=matches
    )
    return write_page(path, page)


def write_map_page(path: Path, source: str, images: int, model: str, method: str, points: Sequence[MapPoint]) -> Path:
    """Write a map. It loads nothing and runs only our script, whose hash its policy names.

    Raises:
        ValueError: a thumbnail is not an image contained in the page.
    """
    for point in points:
        require_thumbnail(point.thumbnail)
    classes = sorted({point.label for point in points if point.label is not None})
    rows = [
        [
            shorten(point.path, 120),
            classes.index(point.label) if point.label is not None else -1,
            shorten(point.text, MAX_TEXT) if point.text else "",
            point.thumbnail or "",
        ]
        for point in points
    ]
    page = render_page(
        "map.html.j2",
        version=_version(),
        source=source,
        images=images,
        model=model,
        method={"tsne": "t-SNE", "pca": "principal components"}[method],
        points=points,
        class_of=[row[1] for row in rows],
        classes=classes,
        names=_place_names(points, classes),
        data=_embed({"classes": list(map(single_line, classes)), "images": rows}),
        **load_script("map.js"),
    )
    return write_page(path, page)


def _place_names(points: Sequence[MapPoint], classes: Sequence[str]) -> list[tuple[str, float, float]]:
    """Return the name of each class with the centre of its images, if there are few enough names to read."""
    if len(classes) > MAX_NAMES:
        return []
    of_class = {name: [point for point in points if point.label == name] for name in classes}
    placed: list[tuple[str, float, float]] = []
    for name, own in of_class.items():
        x, y = median(point.x for point in own), median(point.y for point in own)
        while any(abs(x - other_x) < NAME_WIDTH and abs(y - other_y) < NAME_HEIGHT for _, other_x, other_y in placed):
            y -= NAME_HEIGHT
        placed.append((name, x, y))
    return placed


def _embed(data: object) -> Markup:
    """Return data as JSON that is safe inside a script element: no text in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _version() -> str:
    from importlib.metadata import version

    return version("gpt4image")
