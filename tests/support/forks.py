"""Commands and functions in processes forked from one that has imported the libraries: they start at once, and can be
killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest

LOADED = forkserver.ForkServer()
"""Not the one of the library under test, which has imported other things."""
LOADED.set_forkserver_preload(["support.loaded"])


def start_forked(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function of a module."""
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the process that imports the libraries
        patch.setattr(forkserver, "connect_to_new_process", LOADED.connect_to_new_process)
        process.start()
    return process


def start_command(arguments: Sequence[str], threads: int | None = None) -> BaseProcess:
    """Start the command line with some threads of torch; its exit status becomes that of the process."""
    return start_forked(run_command, list(arguments), threads)


def run_command(arguments: list[str], threads: int | None = None) -> None:
    import torch

    from gpt4image.cli.main import main

    measure_one_batch()
    if threads is not None:
        torch.set_num_threads(threads)
    sys.exit(main(arguments))


def measure_one_batch() -> None:
    """Measure the speed of a model on one batch, as the tests do it in their own process."""
    from gpt4image.compare import model_facts

    model_facts.SECONDS = 0.0


def finish_command(arguments: Sequence[str], threads: int | None = None) -> None:
    """Run the command line to its end, which must be a success."""
    process = start_command(arguments, threads)
    process.join()
    assert process.exitcode == 0


class ForkedPython:
    """`subprocess.Popen` of Python, with the libraries imported already.

    Args:
        words: what follows `python`: a script, `-c` and code, or `-m` and a module, and their arguments.
        environment: variables to set besides this process's.
        new_session: become the leader of a process group.

    Attributes:
        stdout: what it prints, as text.
        stderr: its errors, as text.
    """

    def __init__(
        self, words: Sequence[object], environment: Mapping[str, str] | None = None, *, new_session: bool = False
    ) -> None:
        (self.stdout, out), (self.stderr, err) = readable_pipe(), readable_pipe()
        environment = {**os.environ, **(environment or {})}
        self._process = start_forked(run_python, [str(word) for word in words], environment, out, err, new_session)
        self.pid = self._process.pid
        out.close()
        err.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        with ThreadPoolExecutor() as readers:
            printed = tuple(readers.map(lambda pipe: pipe.read(), (self.stdout, self.stderr)))
        self.wait()
        return printed


def readable_pipe() -> tuple[TextIO, Connection]:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        return os.fdopen(os.dup(reader.fileno()), "r", errors="replace"), writer


def forked_python(words: Sequence[object], *, check: bool = True, **more: object) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, as `subprocess.run` does it with its output captured."""
    process = ForkedPython(words, **more)
    printed = process.communicate()
    assert process.returncode == 0 or not check, printed
    return subprocess.CompletedProcess(words, process.returncode, *printed)


def run_python(
    words: list[str], environment: dict[str, str], out: Connection, err: Connection, new_session: bool
) -> None:
    multiprocessing.set_start_method(None, force=True)  # not that of its own start
    measure_one_batch()
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    match words:
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ["-m", module, *arguments]:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [script, *arguments]:
            sys.argv = [script, *arguments]
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
