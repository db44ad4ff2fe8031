"""Help texts, generated from the dataclass fields that tyro parses: their types, defaults and docstrings.

`--help` shows the options that a command lists in `SHORT`, and its `EXAMPLE`; `--help-all` shows every option, grouped
by feature: the options of a nested dataclass, and those of each of its base classes, form a group.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from gpt4image.core.format import wrap_command
from gpt4image.core.invocation import in_users_words
from gpt4image.core.options import OutputOptions
from gpt4image.core.registry import Registry
from gpt4image.core.validation import field_types

TITLE = "Options"  # title of the group of the command's own fields
OUTPUT = tuple(field.name for field in fields(OutputOptions))
HELP_COLUMN = 26
METAVARS = {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT"}


@dataclass(frozen=True)
class Option:
    """An option or a positional argument as help shows it.

    Attributes:
        name: without dashes, such as base-url.
        usage: such as "--base-url TEXT ...".
        about: what it does, and its default.
        positional: whether it is an argument without a flag.
    """

    name: str
    usage: str
    about: str
    positional: bool


def two_columns(left: str, right: str, column: int = HELP_COLUMN) -> list[str]:
    """Return lines with a term on the left and its explanation, wrapped at the terminal's width, on the right."""
    wrapped = textwrap.wrap(in_users_words(right), terminal_width() - column, break_on_hyphens=False)
    first, indent = f"  {left} ".ljust(column), " " * column
    if len(first) > column:
        return [first.rstrip(), *(indent + line for line in wrapped)]
    return [(first + "".join(wrapped[:1])).rstrip(), *(indent + line for line in wrapped[1:])]


def terminal_width() -> int:
    """Return the number of columns to use: that of the terminal, limited to lines that are easy to read."""
    return min(shutil.get_terminal_size().columns, 100)


def help_text(name: str, command: type, *, everything: bool) -> str:
    """Return the help of a command in the user's words, wrapped at the terminal's width."""
    width = terminal_width()
    groups = option_groups(command)
    arguments = [option for options in groups.values() for option in options if option.positional]
    flags = {title: [option for option in options if not option.positional] for title, options in groups.items()}
    short: tuple[str, ...] = getattr(command, "SHORT", ())
    if short and not everything:
        by_name = {option.name: option for options in flags.values() for option in options}
        flags = {"Main options": [by_name[key] for key in (*short, *OUTPUT)]}
    words = [*(option.usage for option in arguments), *(["[options]"] if any(flags.values()) else [])]
    usage = in_users_words(" ".join([f"usage: gpt4image {name}", *words]))
    about = (in_users_words(" ".join(part.split())) for part in str(command.__doc__).split("\n\n"))
    parts = [usage, *(textwrap.fill(part, width) for part in about)]
    for title, options in {"": arguments, **flags}.items():
        lines = [line for option in options for line in two_columns(option.usage, option.about)]
        parts += ["\n".join([textwrap.fill(f"{title or 'Arguments'}:", width), *lines])] if lines else []
    if everything:
        keys = [line for key, about in getattr(command, "KEYS", {}).items() for line in two_columns(key, about)]
        parts.append("\n".join(["Keys of the JSON object:", *keys]))
    if example := getattr(command, "EXAMPLE", ""):
        parts.append(f"Example:\n{wrap_command(in_users_words(f'gpt4image {name} {example}'), width)}")
    if short and not everything:
        parts.append(in_users_words(f"All {len(by_name)} options: gpt4image {name} --help-all"))
    return "\n\n".join(parts)


def option_groups(command: type) -> dict[str, list[Option]]:
    """Return the options of a command by the title of their group, the command's own first and those of output last."""
    groups: dict[str, list[Option]] = {TITLE: []}
    output: list[Option] = []
    for field in fields(command):
        kind = field_types(command)[field.name]
        if not is_dataclass(kind):
            options = output if field.name in OUTPUT else groups[TITLE]
            options.append(read_option(field, kind, docstrings(command)[field.name]))
            continue
        assert isinstance(kind, type)
        for group in reversed(kind.__mro__):  # a base class is a group of its own
            own = [part for part in fields(kind) if part.name in inspect.get_annotations(group)]
            title = str(group.__doc__).split("\n", maxsplit=1)[0].rstrip(".")
            groups |= {
                title: [read_option(part, field_types(kind)[part.name], docstrings(kind)[part.name]) for part in own]
            }
    return {**groups, str(OutputOptions.__doc__).rstrip("."): output}


def read_option(field: Field[Any], kind: Any, about: str) -> Option:  # noqa: ANN401 - any field's type
    """Return a field of a command or of its options in the form that help shows."""
    notes = kind.__metadata__ if get_origin(kind) is Annotated else ()
    named = next((note for note in notes if getattr(note, "name", None)), None)  # renamed by tyro.conf.arg
    name = (named.name if named else field.name).replace("_", "-")
    about = " ".join((getattr(named, "help", None) or about).split())
    default = "" if "Default:" in about else default_of(field)
    if tyro.conf.Positional in notes:
        shown = metavar(kind) if metavar(kind).startswith("{") else name.upper()
        usage = shown if field.default is MISSING else f"[{shown}]"
        return Option(name, usage + " ..." * metavar(kind).endswith(" ..."), about, True)
    about = f"{about} ({default})" if default else about
    if field.type in ("bool", bool):
        return Option(name, f"--{name}, --no-{name}" if field.default else f"--{name}", about, False)
    return Option(name, f"--{name} {metavar(kind)}", about, False)


def default_of(field: Field[Any]) -> str:
    """Return the default as a remark; empty for None, False and empty values, which the text explains."""
    if field.default is MISSING:
        return "required"
    value = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    if value is True:
        return "on by default"
    return "" if value is None or value is False or value == "" else f"default: {value}"


def metavar(kind: Any) -> str:  # noqa: ANN401 - any field's type
    """Return the placeholder for a value of a type.

    >>> metavar(int | None), metavar(tuple[str, ...]), metavar(Literal["skip", "fail"])
    ('INT', 'TEXT ...', '{skip,fail}')
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        names = next((note.names() for note in kind.__metadata__ if isinstance(note, Registry)), None)
        return f"{{{','.join(names)}}}" if names else metavar(arguments[0])
    if origin in (Union, UnionType):
        return metavar(next(part for part in arguments if part is not type(None)))
    if origin is Literal:
        return f"{{{','.join(arguments)}}}"
    if origin is tuple:
        return " ".join("..." if part is Ellipsis else metavar(part) for part in arguments)
    return "{True,False}" if kind is bool else METAVARS[kind]


def docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass, including those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= dict(field_docstrings(base.__module__).get(base.__name__, ()))
    return {field.name: found.get(field.name, "") for field in fields(kind)}


@cache
def field_docstrings(module: str) -> dict[str, list[tuple[str, str]]]:
    """Return name and docstring of the documented fields of each class of a module."""
    if module == "builtins":
        return {}
    classes = [
        node for node in ast.parse(inspect.getsource(sys.modules[module])).body if isinstance(node, ast.ClassDef)
    ]
    return {node.name: list(documented_fields(node)) for node in classes}


def documented_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of the annotated fields that are followed by a string."""
    for field, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            yield field.target.id, str(getattr(below.value, "value", ""))
