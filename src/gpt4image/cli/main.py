"""The command line: parse, run the command, print errors in one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpt4image.cli.commands import COMMANDS, Command
from gpt4image.cli.commands.train import RecipeCommand
from gpt4image.core.console import command_output, doing, only_results, result, say
from gpt4image.core.errors import ConfigError, Gpt4ImageError, first_line
from gpt4image.core.format import wrap
from gpt4image.core.invocation import (
    NAME,
    Invocation,
    current_invocation,
    in_users_words,
    invoked,
    invoked_on,
    typed_program,
)
from gpt4image.core.options import WORK, DataOptions
from gpt4image.core.registry import unknown_name
from gpt4image.train.named_recipes import named_recipe
from gpt4image.train.recipe import Recipe, read_toml

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
HELP_WORDS = ("help", "usage", "-help", "-?")

WRONG = 2  # exit status for a wrong command line

# Options that were renamed. They are no longer accepted, but the error names the new one.
RENAMED = {"--class-was-told": "--class-in-prompt", "--no-class-was-told": "--no-class-in-prompt"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0 is success, 1 an error that the message explains, 2 an unknown option, 3 if some descriptions or predictions
    failed, 130 an interrupt.
    """
    program = typed_program() if arguments is None else NAME
    typed = tuple(sys.argv[1:] if arguments is None else arguments)
    output = command_output(json="--json" in typed, quiet="--quiet" in typed)
    with invoked(Invocation(program, typed, frozenset(name.split()[0] for name in COMMANDS))), output:
        return run(list(typed))


def run(arguments: list[str]) -> int:
    """Parse and run a command, and print its error."""
    images = ExitStack()  # open until the error is printed
    try:
        command = parse(arguments)
        source = getattr(command, "source", None)
        if isinstance(source, DataOptions):
            images.enter_context(invoked_on(source.words(), getattr(command, "work", WORK)))
        with only_results(), doing("Starting"):
            return command.run() or 0
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not isinstance(error, (Gpt4ImageError, OSError)) and not is_full_disk(error):  # OSError: a read-only folder
            raise
        message = explain(error)
        say(f"error: {message}", style="red")
        result(error=message, kind=type(error).__name__)
        return 1
    except SystemExit as ended:
        if ended.code == WRONG:  # tyro has said on standard error what is wrong
            result(error="the command line is wrong: standard error says why", kind=ConfigError.__name__)
        raise
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to resume.")
        return 130
    finally:
        images.close()


def is_full_disk(error: Exception) -> bool:
    """Whether an error is due to a full disk, which libraries that write files report in errors of their own."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return (isinstance(error, OSError) and error.errno in codes) or any(
        os.strerror(code) in str(error) for code in codes
    )


def explain(error: Exception) -> str:
    """Return an error's message; for a full disk, name the disk and what to do."""
    if not is_full_disk(error):
        return str(error)
    where, said = "", first_line(error).rstrip(".")
    if isinstance(error, OSError):
        typed = current_invocation()
        place = error.filename or (typed.work if typed and typed.images else "")
        where, said = f" for {place}" if place else "", str(error.strerror)
    return (
        f"the disk is full{where} ({said}). Free some space and run the same command again: what was written is kept."
    )


def parse(arguments: list[str]) -> Command:
    """Return the command with its options.

    Recipe settings come from the defaults, a named recipe, the `--config` file and the options; later ones override
    earlier ones.

    Raises:
        ConfigError: an unknown command or recipe, or an invalid setting.
        SystemExit: help or the version was printed, or an option is unknown.
    """
    if not arguments or arguments[0] in (*HELP, HELP_ALL):
        print(overview())
        raise SystemExit(0 if arguments else WRONG)
    if arguments[0] == "--version":
        print(f"gpt4image {version('gpt4image')}")
        raise SystemExit(0)
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, options = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        raise ConfigError(unknown_command(name))
    check_subcommand(name, options)
    for option in options:
        if (old := option.partition("=")[0]) in RENAMED:
            raise ConfigError(f"{old} is now {RENAMED[old]}.")
    command = COMMANDS[name]
    if {*HELP, HELP_ALL}.intersection(options):
        from gpt4image.cli.help import help_text

        print(help_text(name, command, everything=HELP_ALL in options))
        raise SystemExit(0)
    import tyro

    program = in_users_words(f"{NAME} {name}")
    default: dict[str, Any] = {}
    if issubclass(command, RecipeCommand):
        recipe = read_recipe(program, options)
        default = {"default": command(source=DataOptions(tyro.MISSING), recipe=recipe)}
    chosen: Command = tyro.cli(
        command, prog=program, args=options, add_help=False, config=(tyro.conf.OmitArgPrefixes,), **default
    )
    return chosen


def check_subcommand(name: str, options: list[str]) -> None:
    """Raise ConfigError if the second word is a misspelt part of a command's name rather than a source of images."""
    parts = [command.removeprefix(f"{name} ") for command in COMMANDS if command.startswith(f"{name} ")]
    word = next(iter(options), "")
    near = get_close_matches(word, parts, n=1, cutoff=0.7)
    if near and not Path(word).exists():
        raise ConfigError(f"There is no {word!r} here. Did you mean {NAME} {name} {near[0]}?")


def unknown_command(name: str) -> str:
    """Return the message for an unknown command, which suggests what was probably meant."""
    parts = [command for command in COMMANDS if name in command.split()[1:]]
    if name in (*HELP_WORDS, "version"):
        parts = ["--version" if name == "version" else "--help"]
    if not parts:
        return unknown_name("command", name, COMMANDS)
    return f"Unknown command {name!r}. Did you mean {' or '.join(f'{NAME} {part}' for part in parts)}?"


@dataclass(frozen=True)
class RecipeSource:
    """The options that select the recipe, which all other options change."""

    recipe: str | None = None
    config: Path | None = None


def read_recipe(program: str, options: list[str]) -> Recipe:
    """Return the named recipe with the changes of the `--config` file; the default recipe without either.

    Raises:
        ConfigError: an unknown recipe, or an invalid setting in the file.
    """
    import tyro

    source, _ = tyro.cli(RecipeSource, prog=program, args=options, return_unknown_args=True, add_help=False)
    recipe = Recipe() if source.recipe is None else named_recipe(source.recipe)
    return recipe if source.config is None else recipe.override(read_toml(source.config), str(source.config))


def overview() -> str:
    """Return the list of commands, in the user's words."""
    from gpt4image.cli.help import terminal_width, two_columns

    width = terminal_width()

    commands = [
        line
        for name, command in COMMANDS.items()
        for line in two_columns(name, str(command.__doc__).splitlines()[0], column=19)
    ]
    return "\n".join(
        [
            in_users_words(f"usage: {NAME} COMMAND ..."),
            "",
            "Image classifiers trained with descriptions by a multimodal LLM.",
            "",
            *commands,
            "",
            *wrap(
                in_users_words(f"{NAME} COMMAND --help shows a command's main options, --help-all every option."), width
            ),
            *wrap(in_users_words(f"{NAME} --version shows the version."), width),
        ]
    )
