"""Untrusted text in Markdown: shown as it is, never obeyed."""

from __future__ import annotations

import re

from gpt4image.console import printable

ACTIVE = re.compile(r"[!-+/:-@\[-`{-~]|(?<=www)\.", re.IGNORECASE)
"""ASCII punctuation that Markdown or HTML may act on, and the dot that makes a link of what stands behind `www`."""


def one_line(text: str) -> str:
    r"""Text on one line, with control and bidirectional characters made visible.

    >>> one_line("a\n---\nb\u202ec")
    'a --- b\\u202ec'
    """
    return printable(" ".join(text.split()))


def escaped(text: str) -> str:
    """Text for a line or table cell of Markdown: what could be markup becomes character references.

    >>> escaped("<b>|cat| www.x.org</b>")
    '&#60;b&#62;&#124;cat&#124; www&#46;x.org&#60;&#47;b&#62;'
    """
    return ACTIVE.sub(lambda match: f"&#{ord(match[0])};", one_line(text))


def fenced(text: str) -> str:
    r"""Text as a code block, with a fence that is longer than any in it.

    >>> fenced("a\n```\nb")
    '````text\na\n```\nb\n````'
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(map(printable, text.splitlines()))
    return f"{fence}text\n{lines}\n{fence}"
