"""Registries: open sets of named parts (losses, text encoders, vision teachers, describers, tasks).

A part comes from one of three places, which are equivalent:

- the library's own table;
- `REGISTRY.register("name", part)` in the user's own program, for this process;
- an installed package, by an entry point, which worker processes and the command line see as well:

      [project.entry-points."gpt4image.losses"]
      hinge = "my_package.losses:hinge"

Nothing is imported before a part is loaded, so listing names and command line choices does not import torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from gpt4image.core.errors import ConfigError, first_line

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """Named parts of one kind.

    A part can be anything: a class, a function, or an object with metadata and a lazy target, such as
    `Loss("gpt4image.align.functional:clip_loss", uses_queue=True)`, which resolves the target itself (`resolve`).

    Args:
        kind: name of the parts in error messages.
        entries: the built-in parts: each the part itself or its "module:attribute".
        group: entry point group of installed packages. A package cannot override an existing name.

    >>> registry = Registry("shape", {"path": "pathlib:Path"}, group="gpt4image.shapes")
    >>> registry.load("path").__name__
    'Path'
    >>> registry.register("count", len)
    >>> registry.names()
    ('path', 'count')
    """

    def __init__(self, kind: str, entries: Mapping[str, Part | str], *, group: str) -> None:
        self.kind, self.group = kind, group
        self._entries: dict[str, Part | str] = dict(entries)
        self._installed: dict[str, EntryPoint] | None = None

    def names(self) -> tuple[str, ...]:
        """Return all names: built-in ones, then registered ones, then those of packages, sorted."""
        return tuple(dict.fromkeys([*self._entries, *sorted(self._entry_points())]))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._entry_points()

    def register(self, name: str, part: Part | str) -> None:
        """Add a part for this process; worker processes see entry points only.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self:
            raise ConfigError(f"There is already a {self.kind} {name!r}. Register yours under another name.")
        self._entries[name] = part

    def check(self, name: object) -> None:
        """Raise ConfigError if no part has this name; the message lists the known ones."""
        if name not in self:
            raise ConfigError(unknown_name(self.kind, str(name), self.names()))

    def load(self, name: str) -> Part:
        """Return a part, importing it if necessary.

        Raises:
            ConfigError: no part has this name, or an installed package's part cannot be imported.
        """
        if name in self._entries:
            return resolve(self._entries[name])
        self.check(name)
        entry = self._entry_points()[name]
        try:
            return cast(Part, entry.load())
        except Exception as error:  # importing another package can raise anything
            package = entry.dist.name if entry.dist else "an installed package"
            raise ConfigError(
                f"The {self.kind} {name!r} of {package} ({entry.value}) cannot be loaded: {first_line(error)}"
            ) from error

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._installed is None:  # read once: it lists every installed distribution
            self._installed = {entry.name: entry for entry in entry_points(group=self.group)}
        return self._installed


def resolve(target: Part | str) -> Part:
    """Import the object that "module:attribute" names; return anything that is not a string as it is."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return cast(Part, getattr(importlib.import_module(module), attribute))


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error message that suggests the nearest known name.

    >>> unknown_name("loss", "clop", ["clip", "cosine"])
    "Unknown loss 'clop'. Did you mean 'clip'? Known: clip, cosine."
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known)}."
