"""Open sets of parts (encoders, losses): a literal table of names, each loaded when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from gpt4image.core.errors import ConfigError


def load_part(table: Mapping[str, str], name: str, what: str) -> Any:  # noqa: ANN401 - the caller knows the type
    """Import the part that a table `name -> "module:attribute"` holds under a name.

    Raises:
        ConfigError: the name is not in the table; the message lists those that are.
    """
    if name not in table:
        raise ConfigError(unknown_name(what, name, list(table)))
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def unknown_name(what: str, name: str, known: list[str]) -> str:
    """Message for a name that is not among the known ones, with the nearest suggested.

    >>> unknown_name("loss", "clop", ["clip", "cosine"])
    "Unknown loss 'clop'. Did you mean 'clip'? Known: clip, cosine."
    """
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(sorted(known))}."
