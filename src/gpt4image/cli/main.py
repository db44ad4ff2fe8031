"""The command line: parse, run the command, say what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

from gpt4image.cli.commands import COMMANDS, Command
from gpt4image.cli.commands.train import Compare, Train
from gpt4image.core.errors import ConfigError, Gpt4ImageError
from gpt4image.core.options import DataOptions
from gpt4image.core.registry import unknown_name
from gpt4image.train.recipe import Recipe, named_recipe, read_toml


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error that the message explains, 130 when interrupted."""
    try:
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        command.run()
    except Gpt4ImageError as error:
        from gpt4image.core.console import say

        say(f"error: {error}", style="red")
        return 1
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that must not be written to
        from gpt4image.core.console import say

        say(f"error: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        from gpt4image.core.console import say

        say("Stopped. The same command goes on from here.")
        return 130
    return 0


def parse(arguments: list[str]) -> Command:
    """Arguments to a command; a named recipe, then a `--config` file, take the place of the recipe's defaults.

    Raises:
        ConfigError: unknown command or recipe, or a `--config` file that cannot be meant.
        SystemExit: help was asked for, or an option is wrong.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        raise SystemExit(0 if arguments else 2)
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, options = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        raise ConfigError(unknown_name("command", name, list(COMMANDS)))
    kind = COMMANDS[name]
    default: dict[str, Any] = {}
    if kind in (Train, Compare) and (recipe := starting_recipe(options)):
        default = {"default": kind(source=DataOptions(tyro.MISSING), recipe=recipe)}
    chosen: Command = tyro.cli(
        kind, prog=f"gpt4image {name}", args=options, config=(tyro.conf.OmitArgPrefixes,), **default
    )
    return chosen


def overview() -> str:
    """What there is to do, a line a command."""
    lines = [f"  {name:16} {str(kind.__doc__).splitlines()[0]}" for name, kind in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gpt4image COMMAND ...",
            "",
            "Better image classifiers of ordinary size: descriptions at training, nothing extra at inference.",
            "",
            *lines,
            "",
            "gpt4image COMMAND --help shows every setting.",
        ]
    )


def starting_recipe(arguments: list[str]) -> Recipe | None:
    """The recipe that options change: the one named by `--recipe`, changed by the file of `--config`; None for neither.

    Raises:
        ConfigError: there is no such recipe, or the file cannot be meant.
    """
    name, file = option_value(arguments, "--recipe"), option_value(arguments, "--config")
    if name is None and file is None:
        return None
    recipe = Recipe() if name is None else named_recipe(name)
    return recipe if file is None else recipe.override(read_toml(Path(file)), file)


def option_value(arguments: list[str], option: str) -> str | None:
    """What follows an option, or None without it.

    >>> option_value(["data", "--config=a.toml"], "--config")
    'a.toml'
    """
    for argument, following in pairwise([*arguments, ""]):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None
