"""Cards in Markdown, from templates that escape every text unless a filter made it Markdown.

Texts from models and servers and file names are untrusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gpt4image.core.files import atomic_write
from gpt4image.core.format import counted, printable

if TYPE_CHECKING:
    from huggingface_hub import CardData

ACTIVE = re.compile(
    r"[\\`*<>\[\]|~#$@]|&(?=[#\w])"
    r"|(?<=\])\("
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore between letters is harmless
    r"|:(?=\S)|(?<=www)\."  # these turn addresses into links
    r"|^[-+=]|(?:(?<=^\d)|(?<=^\d\d))[.)](?=\s|$)",  # a list, at the start
    re.IGNORECASE,
)
"""Punctuation that has a meaning in HTML or Markdown (CommonMark, and GitHub's tables, links and formulas)."""
MOST_CLASSES = 60
"""With more classes than this, a card does not list them."""


def one_line(text: str) -> str:
    r"""Put a text on one line and make control and bidirectional characters visible.

    >>> one_line("a\n---\nb\u202ec")
    'a --- b\\u202ec'
    """
    return printable(" ".join(text.split()))


def escaped(text: str) -> str:
    r"""Escape a text for a line or table cell of Markdown: put a backslash wherever it could be markup.

    >>> print(escaped("<b>|cat| www.x.org (1 of 2), tabby_cat: 50%</b>"))
    \<b\>\|cat\| www\.x.org (1 of 2), tabby_cat: 50%\</b\>
    """
    return ACTIVE.sub(r"\\\g<0>", one_line(text))


def fenced(text: str, language: str = "text") -> str:
    r"""Format a text as a code block whose fence is longer than any in the text.

    >>> fenced("a\n```\nb")
    '````text\na\n```\nb\n````'
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(map(printable, text.splitlines()))
    return f"{fence}{language}\n{lines}\n{fence}"


def render_card(package: str, filters: Mapping[str, Callable[..., object]], **values: object) -> str:
    """Render the template `card.md.j2` of a package.

    Args:
        package: name of the package with the template.
        filters: filters besides `count`, `counted` and `fenced`.
        values: the template's variables.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "counted": counted,
        "fenced": lambda text, language="text": Markup(fenced(text, language)),
        **filters,
    }
    return environment.from_string((files(package) / "card.md.j2").read_text("utf-8")).render(values)


def write_card(path: Path, metadata: CardData, text: str) -> None:
    """Write a card, the `README.md` of a dataset or model.

    Args:
        path: the file.
        metadata: the YAML block at the top, for the Hugging Face Hub.
        text: the Markdown.
    """
    with atomic_write(path) as file:
        file.write(f"---\n{metadata.to_yaml()}\n---\n\n{text}".encode())


def _shown(value: Any) -> Any:  # noqa: ANN401 - whatever a template prints
    """Escape a text, unless a filter made it."""
    return Markup(escaped(value)) if isinstance(value, str) and not isinstance(value, Markup) else value
