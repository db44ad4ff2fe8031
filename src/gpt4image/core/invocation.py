"""How the user calls gpt4image, so that messages name commands and settings in the user's own words.

Messages are written as `gpt4image describe` and `test_share (--test-share)`. On the command line the first becomes what
was typed, such as `./run gpt4image describe`, and the second `--test-share`; a Python call reads `test_share`. In
`gpt4image label DATA --work WORK`, the images and the work directory become those of the command.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

NAME = "gpt4image"
VARIABLE = "GPT4IMAGE_COMMAND"  # set by scripts that wrap the command, such as ./run

_OPTION = re.compile(r" \(--[a-z][^()]*\)")
_DATA = re.compile(rf"\b({NAME}(?: [a-z]+)+) DATA\b(?: --work WORK\b)?")
_WORK = re.compile(r"(?<= )WORK(?=/)")
_TWICE = re.compile(r"\b([a-z]+(?:_[a-z]+)*) \((--([a-z][\w-]*)[^()]*)\)")


@dataclass(frozen=True)
class Invocation:
    """A command as it was typed.

    Attributes:
        program: how the command line is started, such as `python -m gpt4image`.
        arguments: all arguments after it.
        commands: first words of all known commands.
        images: the options for its images, as words; empty if it has none.
        work: its work directory.
    """

    program: str
    arguments: tuple[str, ...] = ()
    commands: frozenset[str] = frozenset()
    images: tuple[str, ...] = ()
    work: str = "WORK"

    def with_option(self, name: str, value: object) -> str:
        """Return the command line with another value of one option.

        >>> Invocation("gpt4image", ("compare", "my photos", "--seeds=3")).with_option("--seeds", 9)
        "gpt4image compare 'my photos' --seeds 9"
        """
        kept, words = [], iter(self.arguments)
        for word in words:
            if word == name:
                next(words, None)
            elif not word.startswith(f"{name}="):
                kept.append(word)
        return f"{self.program} {shlex.join([*kept, name, str(value)])}"


_CURRENT: ContextVar[Invocation | None] = ContextVar("invocation", default=None)


def current_invocation() -> Invocation | None:
    """Return the command that is running; None in a Python program."""
    return _CURRENT.get()


@contextmanager
def invoked(invocation: Invocation) -> Iterator[None]:
    """Make messages name commands and settings as on this command line."""
    token = _CURRENT.set(invocation)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def invoked_on(images: Sequence[str], work: Path) -> Iterator[None]:
    """Make messages name these images and this work directory as those of the running command, if there is one."""
    if (invocation := _CURRENT.get()) is None:
        yield
        return
    with invoked(replace(invocation, images=tuple(images), work=str(work))):
        yield


def in_users_words(text: str) -> str:
    """Return a message with commands and settings as the user would type them.

    >>> in_users_words("Set test_share (--test-share SHARE), or pretrained off (--no-pretrained).")
    'Set test_share, or pretrained off.'
    >>> with invoked(Invocation("./run gpt4image", commands=frozenset({"train"}))):
    ...     in_users_words("Set test_share (--test-share SHARE): gpt4image train.")
    'Set --test-share SHARE: ./run gpt4image train.'
    """
    invocation = _CURRENT.get()
    if invocation is None:
        return _OPTION.sub("", text)
    text = _TWICE.sub(lambda found: found[2] if found[1] == found[3].replace("-", "_") else found[0], text)
    if invocation.images:
        typed_work = any(word.partition("=")[0] == "--work" for word in invocation.arguments)
        known = shlex.join([*invocation.images, *(["--work", invocation.work] if typed_work else [])])
        text = _DATA.sub(lambda found: f"{found[1]} {known}", text)
        text = _WORK.sub(lambda _: shlex.quote(invocation.work), text)
    if invocation.program == NAME:
        return text
    before = re.escape(invocation.program.removesuffix(NAME))  # a message may be translated twice
    names = "|".join(map(re.escape, sorted(invocation.commands)))
    return re.sub(rf"(?<!{before})\b{NAME}(?= (?:--|COMMAND\b|(?:{names})\b))", lambda _: invocation.program, text)


def typed_program() -> str:
    """Return what the user typed before the first argument."""
    if program := os.environ.get(VARIABLE):
        return program
    if int(started := os.environ.get("WORLD_SIZE", "1")) > 1:  # a launcher starts another command than the user typed
        if "ACCELERATE_USE_CPU" in os.environ:  # without a GPU, accelerate starts one process
            return f"torchrun --nproc-per-node {started} -m {NAME}"
        return f"accelerate launch --num_processes {started} -m {NAME}"
    script = Path(sys.argv[0])
    if script.name == "__main__.py":
        return _module_call(sys.orig_argv)
    found = shutil.which(script.name)
    return script.name if found and Path(found).absolute() == script.absolute() else str(script)


def _module_call(words: Sequence[str]) -> str:
    """Return the part of a command line that runs the package as a module.

    >>> _module_call(["python3", "-m", "gpt4image", "compare"])
    'python3 -m gpt4image'
    """
    return shlex.join(words[: words.index(NAME) + 1]) if NAME in words else f"python -m {NAME}"


def install_command(package: str) -> str:
    """Return the command that adds a package to this environment, by the tool that made the environment."""
    quoted, home = shlex.quote(package), Path(sys.prefix)
    if (home / "uv-receipt.toml").is_file():  # by uv tool install
        return f"uv pip install --python {shlex.quote(sys.prefix)} {quoted}"
    if (home / "pipx_metadata.json").is_file():
        return f"pipx runpip {shlex.quote(home.name)} install {quoted}"
    # Not find_spec: setuptools takes that for a run of pip, and torch.compile, which loads it, then fails.
    return f"{'pip' if any(metadata.distributions(name='pip')) else 'uv pip'} install {quoted}"
