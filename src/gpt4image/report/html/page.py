"""From a template to a page: self-contained, everything escaped, whole on disk or absent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gpt4image.core import format as wording
from gpt4image.core.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment


FILTERS: tuple[str, ...] = ("percent", "signed_points", "duration", "decimal", "counted", "money", "moment")


FILTERS += ("shorten", "breakable", "lines")


def render_page(template: str, **values: object) -> str:
    """Render a page as HTML.

    Args:
        template: name of the template, which extends `page.html.j2`.
        values: the template's variables. Their text may come from anywhere: everything but `Markup` is escaped.
    """
    return _environment().get_template(template).render(values)


def write_page(path: Path, html: str) -> Path:
    """Write a page, atomically; returns its path."""
    with atomic_write(path) as file:
        file.write(html.encode())
    return path


@cache
def _environment() -> Environment:
    """Escape everything, and make characters visible that would otherwise act unseen."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gpt4image.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in FILTERS}
    return environment


def _shown(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """Make text visible; markup is our own."""
    return wording.single_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value
