"""Commands and functions in processes forked from one that has imported the libraries: they start at once, and can be
killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import sentence_transformers  # noqa: F401 - imported here, as are the next, so that no command has to
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401

import gpt4image.compare.arms
import gpt4image.report.comparison.page
import gpt4image.workflows.train  # noqa: F401
from gpt4image.cli.main import main


def start_forked(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function of a module."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["support.forks"])
    process = forks.Process(target=function, args=arguments)
    process.start()
    return process


def start_command(arguments: Sequence[str]) -> BaseProcess:
    """Start the command line; its exit status becomes that of the process."""
    return start_forked(run_command, list(arguments))


def run_command(arguments: list[str]) -> None:
    sys.exit(main(arguments))


def finish_command(arguments: Sequence[str]) -> None:
    """Run the command line to its end, which must be a success."""
    process = start_command(arguments)
    process.join()
    assert process.exitcode == 0


def printed_by(function: Callable[..., object], output: Path, *arguments: object) -> str:
    """Run a function of a module to its end, which must be a success; return what it printed.

    Args:
        function: the function.
        output: file for what it prints.
        arguments: what it is called with.
    """
    process = start_forked(print_to, output, function, *arguments)
    process.join()
    printed = output.read_text()
    assert process.exitcode == 0, printed
    return printed


def print_to(output: Path, function: Callable[..., object], *arguments: object) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)
    sys.stdout.flush()


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Run a script as `python script arguments` does."""
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
