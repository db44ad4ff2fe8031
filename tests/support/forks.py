"""Commands in processes forked from one that has imported the libraries: they start at once, and can be killed."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

import sentence_transformers  # noqa: F401 - imported here, as are the next, so that no command has to
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401

import gpt4image.compare.arms
import gpt4image.report.comparison.page
import gpt4image.workflows.train  # noqa: F401
from gpt4image.cli.main import main


def start_command(arguments: Sequence[str]) -> BaseProcess:
    """Start the command line; its exit status becomes that of the process."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["support.forks"])
    process = forks.Process(target=run_command, args=(list(arguments),))
    process.start()
    return process


def run_command(arguments: list[str]) -> None:
    sys.exit(main(arguments))


def finish_command(arguments: Sequence[str]) -> None:
    """Run the command line to its end, which must be a success."""
    process = start_command(arguments)
    process.join()
    assert process.exitcode == 0
