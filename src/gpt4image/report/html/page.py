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


FILTERS: tuple[str, ...] = ("percent", "signed_points", "duration", "decimal", "count", "money", "moment")


FILTERS += ("shorten", "breakable", "lines")


def render_page(package: str, template: str, **values: object) -> str:
    """A page as HTML.

    Args:
        package: package whose folder `templates` holds the template; those of this package are there as `pages/...`.
        template: name of the template, which extends `pages/page.html.j2`.
        values: what the template lays out. Text may come from anywhere: it is escaped, and only `Markup` is not.
    """
    return _environment(package).get_template(template).render(values)


def write_page(path: Path, html: str) -> Path:
    """Write a page, atomically; returns its path."""
    with atomic_write(path) as file:
        file.write(html.encode())
    return path


@cache
def _environment(package: str) -> Environment:
    """Templates of a package. Everything is escaped, and what would act unseen is made visible first."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined

    shared = PrefixLoader({"pages": PackageLoader("gpt4image.report.html", "templates")})
    environment = Environment(
        loader=ChoiceLoader([shared, PackageLoader(package, "templates")]),
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
    return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
