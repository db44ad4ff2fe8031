"""Runs that are trained at once, in processes of their own."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from gpt4image import compare_arms
from gpt4image.core import console
from gpt4image.core.errors import ConfigError, TrainingError
from gpt4image.core.side_by_side import SideBySide, Task
from support.training import same_weights

PRELOAD = ["support.forks"]


@pytest.fixture
def processes():
    with SideBySide(2, 1, PRELOAD) as opened:
        yield opened


@pytest.mark.slow
def test_runs_at_once_end_like_one_after_another(images, descriptions, store, small_recipe, tmp_path, capsys):
    recipe, seeds = small_recipe(), (0, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = compare_arms(images, descriptions, store, recipe, tmp_path / "one", seeds=seeds)
    torch.set_num_threads(threads)
    capsys.readouterr()
    two = compare_arms(images, descriptions, store, recipe, tmp_path / "two", seeds=seeds, runs_at_once=2)
    log = capsys.readouterr().err
    assert torch.get_num_threads() == threads
    assert two.difference == one.difference and two.per_class == one.per_class
    weights = sorted((tmp_path / "one").glob("runs/*/best.safetensors"))
    assert len(weights) == 4
    for path in weights:
        assert same_weights(path, tmp_path / "two" / path.relative_to(tmp_path / "one"))
    assert "with 2 runs at once" in log
    assert "Run 1 of 4: baseline, seed 0" in log and "Run 4 of 4: described, seed 1" in log
    assert "All 4 runs: 4 of 4" in log


@pytest.mark.slow
def test_results_come_as_calls_end(processes):
    for number in range(5):
        processes.submit(Task(number, f"call {number}", pow, (2, number)))
    assert {task.key: result for task, result in processes.finished()} == {n: 2**n for n in range(5)}


def test_killed_process_is_told_with_what_it_did(processes):
    processes.submit(Task(None, "training described, seed 3", os.abort, ()))
    with pytest.raises(TrainingError, match=r"training described, seed 3 was killed \(SIGABRT\).*runs_at_once"):
        list(processes.finished())


def test_error_of_a_call_is_raised_here_with_its_traceback(processes):
    processes.submit(Task(None, "a call", int, ("x",)))
    with pytest.raises(ValueError, match="invalid literal") as caught:
        list(processes.finished())
    assert "In another process:\nTraceback" in caught.value.__notes__[0]


def test_call_that_cannot_be_sent_is_refused(processes):
    processes.submit(Task(None, "a call", print, (lambda: None,)))
    with pytest.raises(ConfigError, match="a call cannot be pickled for another process"):
        list(processes.finished())


@pytest.mark.slow
def test_warnings_and_progress_come_back(processes, capsys):
    from support.calls import count_up

    with console.progress("All calls", 2) as overall:
        for number in range(2):
            line = partial(console.progress, f"Call {number}", part_of=overall)
            processes.submit(Task(number, "a call", count_up, (3,), partial(partial, line)))
        assert {result for _, result in processes.finished()} == {3}
    log = capsys.readouterr().err
    assert "Call 0: 3 of 3, counted" in log and "Call 1: 3 of 3, counted" in log
    assert "All calls: 2 of 2" in log
    assert log.count("Counted to 3.") == 2


def test_request_to_stop_ends_all_calls(processes):
    processes.submit(Task(None, "a call", os.kill, (os.getpid(), signal.SIGTERM)))
    processes.submit(Task(None, "a long call", signal.pause, ()))
    with pytest.raises(KeyboardInterrupt):
        list(processes.finished())
    assert processes.waiting == 0


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path):
    """The middle process is killed while its call waits."""
    from support.calls import hold_a_call
    from support.forks import start_forked

    middle = start_forked(hold_a_call, tmp_path / "pid")
    pid = wait_for_pid(tmp_path / "pid")
    middle.kill()
    middle.join()
    wait_until_gone(pid)


def wait_for_pid(path: Path) -> int:
    import time

    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())


def wait_until_gone(pid: int) -> None:
    import time

    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
