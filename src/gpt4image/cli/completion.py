"""Shell completion: the commands and their options in the form that shtab reads."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from gpt4image.cli.help import Option, option_groups


def completion_script(commands: Mapping[str, type], shell: str) -> str:
    """Return a script that completes commands, options and choices in a shell that shtab supports."""
    import shtab

    parser = argparse.ArgumentParser("gpt4image", add_help=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    first_words = parser.add_subparsers()
    groups: dict[str, argparse.ArgumentParser] = {}
    seconds: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, command in commands.items():  # a command comes before those whose names begin with its own
        first, _, second = name.partition(" ")
        about = str(command.__doc__).splitlines()[0].replace("%", "%%")
        if not second:
            groups[first] = first_words.add_parser(first, help=about, add_help=False)
            several = any(other.startswith(f"{first} ") for other in commands)
            add_options(groups[first], command, files=not several)
            continue
        if first not in seconds:
            seconds[first] = groups[first].add_subparsers()
        add_options(seconds[first].add_parser(second, help=about, add_help=False), command)
    script = str(shtab.complete(parser, shell))
    if shell == "zsh":
        for first in seconds:  # its second word may also be a source of images
            describe = f"_describe 'gpt4image {first} commands' _commands"
            before, function, body = script.replace(describe, f"{describe}; _files").partition(f"_{first}() {{")
            images = f"        *) _arguments -C -s $_shtab_gpt4image_{first}_options ;;\n"
            script = before + function + body.replace("      esac\n", f"{images}      esac\n", 1)
    return script


def add_options(parser: argparse.ArgumentParser, command: type, *, files: bool = True) -> None:
    """Add the options of a command, and the files that it takes, to a parser that is read only by shtab."""
    import shtab

    for name, about in (("--help", "show the main options"), ("--help-all", "show every option")):
        parser.add_argument(name, action="store_true", help=about)
    for option in (option for options in option_groups(command).values() for option in options):
        found = re.search(r"\{(.*)\}", option.usage)
        choices = found[1].split(",") if found else None
        about = option.about.replace("%", "%%")
        for flag in () if option.positional else flags(option):
            if " " not in option.usage.replace(", ", ","):
                parser.add_argument(flag, action="store_true", help=about)
            else:
                added = parser.add_argument(flag, help=about, choices=choices)
                if not choices:
                    added.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks
        if option.positional and choices:
            parser.add_argument(option.name, help=about, choices=choices)
        elif option.positional and files:
            more = {"zsh": '_files" "*:file:_files'}  # or zsh completes nothing after the first of them
            parser.add_argument(option.name, help=about).complete = shtab.FILE | more  # type: ignore[attr-defined]
            files = False


def flags(option: Option) -> list[str]:
    """Return an option's spellings.

    >>> flags(Option("onnx", "--onnx, --no-onnx", "", False))
    ['--onnx', '--no-onnx']
    """
    return re.findall(r"--[\w-]+", option.usage)
