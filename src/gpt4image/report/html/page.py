"""Render templates as self-contained pages: all text is escaped, and files are written atomically."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gpt4image.core import format as wording
from gpt4image.core.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment

# Functions of `core.format` that templates use as filters
FILTERS: tuple[str, ...] = ("percent", "signed_points", "duration", "decimal", "counted", "money", "moment")
FILTERS += ("compact", "shorten", "breakable", "lines")


def render_page(template: str, **values: object) -> str:
    """Render a page as HTML.

    Args:
        template: name of the template, which extends `page.html.j2`.
        values: the template's variables, which may be untrusted: everything except `Markup` is escaped.
    """
    return _environment().get_template(template).render(values)


def load_script(name: str) -> dict[str, str]:
    """Return one of our scripts and its hash for the page's policy, which blocks all others, as template variables."""
    script = (files("gpt4image.report") / "templates" / name).read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_hash": digest}


def write_page(path: Path, html: str) -> Path:
    """Write a page atomically and return its path."""
    with atomic_write(path) as file:
        file.write(html.encode())
    return path


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gpt4image.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in FILTERS}
    return environment


def _visible(value: Any) -> Any:  # noqa: ANN401 - any value that a template prints
    """Show control and direction characters as escapes; markup is our own and is left unchanged."""
    return wording.single_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value
