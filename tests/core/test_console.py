"""Notes and results: escaped and wrapped."""

import ast
import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from gpt4image.core import console

LINE = "These runs do not show that the descriptions help or hurt: +0.6 points, and the 95% interval includes zero."


@pytest.mark.parametrize("is_terminal", [True, False])
def test_show_wraps_long_lines_and_keeps_their_indentation(capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    console.show(f"short\n  {LINE}\n")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "short"
    assert all(len(line) <= 40 and line.startswith("  ") for line in shown[1:-1])
    assert " ".join(" ".join(shown[1:]).split()) == LINE


@pytest.mark.parametrize("command", ["doctor", "recipes"])
def test_result_in_a_pipe_has_80_columns(command):
    without = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    words = [sys.executable, "-m", "gpt4image", command]
    ran = subprocess.run(words, check=True, capture_output=True, text=True, env=without)
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_long_command_is_continued_as_shells_read_it(capsys, monkeypatch):
    command = "./run gpt4image compare 'my photos' --text captions.jsonl --backbone resnet50 --no-pretrained --seeds 18"
    monkeypatch.setenv("COLUMNS", "200")
    console.write_command(command)
    assert capsys.readouterr().out == f"  {command}\n"
    monkeypatch.setenv("COLUMNS", "60")
    console.write_command(command)
    shown = capsys.readouterr().out
    assert all(len(line) <= 60 for line in shown.splitlines()) and shown.count("\\\n") == 2
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(command)


@pytest.mark.parametrize("stream", ["out", "err"])
def test_control_characters_are_escaped(stream, capsys):
    (console.show if stream == "out" else console.say)("a\x1b[31m\u202eb\nc")
    assert getattr(capsys.readouterr(), stream) == "a\\x1b[31m\\u202eb\nc\n"


def test_progress_of_an_unknown_total_shows_the_position(capsys):
    with console.progress("Export") as meter:
        meter.advance(1700)
    with console.progress("Describe in batches", 0):
        pass
    shown = capsys.readouterr().err
    assert "1,700" in shown and "?" not in shown
    assert "0/0" not in shown and "Describe" not in shown


def test_follow_shows_nothing_without_a_step(capsys):
    console.follow("Embed", 3, iter(()))
    assert capsys.readouterr().err == ""
    console.follow("Embed", 3, iter((1, 3)))
    assert "Embed" in capsys.readouterr().err


def test_step_that_takes_long_is_named(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0)
    said = threading.Event()
    say = console.say
    monkeypatch.setattr(console, "say", lambda text: (say(text), said.set()))
    with console.doing("Listing a\x1b[31m"):
        assert said.wait(60)
    assert capsys.readouterr().err == "Listing a\\x1b[31m ...\n"


@pytest.mark.parametrize("speak", [console.say, console.show, lambda text: console.progress(text, 3).__enter__()])
def test_step_is_not_named_once_something_else_is_said(speak, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 1e6)
    before = threading.active_count()
    with console.doing("Listing"), console.doing("Listing more"):
        assert len(console._waiting) == 1
        speak("3 images")
        assert console._waiting == []
    assert threading.active_count() <= before + 3


def test_lines_inside_a_line_move_it_and_stay(capsys):
    """The outer line counts a run that ended earlier, and ends at its total."""
    with console.progress("All 3 runs", 3, done=1) as overall:
        for number in (2, 3):
            with console.progress(f"Run {number} of 3", 7, part_of=overall) as meter:
                meter.start(2 if number == 2 else 0)
                for _ in range(5 if number == 2 else 7):
                    meter.advance()
    shown = capsys.readouterr().err
    shown = [" ".join(line.split()) for line in shown.splitlines()]
    assert [line[:10] for line in shown] == ["Run 2 of 3", "Run 3 of 3", "All 3 runs"]
    assert "7 of 7" in shown[0] and "3 of 3" in shown[2]


def test_lines_side_by_side_move_the_whole_together():
    with console.progress("All 3 runs", 3) as overall:
        (task,) = console._OPEN[0].tasks
        lines = [console.progress(f"Run {number} of 3", 4, part_of=overall) for number in (1, 2)]
        first, second = [line.__enter__() for line in lines]
        first.set(2)
        second.set(1)
        assert task.completed == 0.75
        first.set(4)
        lines[0].__exit__(None, None, None)
        assert task.completed == 1.25
        second.set(4)
        lines[1].__exit__(None, None, None)
        overall.skip()
        assert task.completed == 3


def test_time_left_for_all_runs_is_known_when_a_run_begins():
    """Only work done before this process began says nothing about the speed."""
    with console.progress("All 3 runs", 3) as overall:
        (task,) = console._OPEN[0].tasks
        with console.progress("Run 1 of 3", 4, part_of=overall) as meter:
            meter.start(2)
            assert task.speed is None
            for _ in range(2):
                meter.advance()
        with console.progress("Run 2 of 3", 4, part_of=overall) as meter:
            meter.start(0)
            assert task.speed is not None and task.completed == 1


def test_remark_behind_a_title_goes_when_the_step_is_done():
    with console.progress("Run 1 of 3", 4, remark=", about 5 s left") as meter:
        (task,) = console._OPEN[0].tasks
        assert task.description == "Run 1 of 3, about 5 s left"
        meter.advance(4)
    assert task.description == "Run 1 of 3"


def test_without_a_terminal_long_work_is_logged(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_SECONDS", -1)
    with console.progress("Embed 9 texts", 9) as meter:
        meter.advance(4)
        assert capsys.readouterr().err == "Embed 9 texts: 4 of 9\n"


def test_commands_are_never_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.write(f"  gpt4image compare '{LINE}'")
    assert capsys.readouterr().out == f"  gpt4image compare '{LINE}'\n"


@pytest.fixture
def terminal(monkeypatch):
    """What appears on a terminal, as text."""
    shown = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=True, width=80, highlight=False))
    return shown


def test_a_terminal_shows_at_once_what_is_going_on(terminal):
    with console.doing("Loading PyTorch"):
        assert "Loading PyTorch" in terminal.getvalue()
    assert console._OPEN == [] and console._waiting == []


def test_results_come_after_what_was_going_on_is_taken_off_the_terminal(terminal, capsys):
    with console.doing("Starting"):
        console.write("red\t0.9")
        assert console._OPEN == []
        with console.progress("All 2 runs", 2), console.doing("Preparing"):
            assert "Preparing" in terminal.getvalue()
            console.say("a note")
    assert console._OPEN == [] and capsys.readouterr().out == "red\t0.9\n"
    assert "a note" in terminal.getvalue()


@pytest.mark.slow
def test_library_notes_are_records_named_by_their_module(image_set, tmp_path):
    code = """
import logging, sys
from gpt4image import load_images, show_progress
if len(sys.argv) > 2:
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(filename)s", stream=sys.stdout)
load_images(sys.argv[1])
"""
    folder = shutil.copytree(image_set, tmp_path / "images")
    (folder / "red" / "broken.png").write_bytes(b"broken")
    runs = [
        subprocess.run([sys.executable, "-c", code, str(folder), *more], capture_output=True, text=True, check=True)
        for more in ([], ["all"])
    ]
    assert [run.stderr for run in runs] == ["", ""]
    assert runs[0].stdout == ""
    lines = {line for line in runs[1].stdout.splitlines() if line.startswith("gpt4image")}
    assert "gpt4image.images.splits INFO splits.py" in lines


@pytest.mark.slow
def test_library_prints_nothing():
    """Results are printed by commands, through the console, and by nothing else."""
    package = Path(console.__file__).parents[1]
    results = {"show", "write", "result", "ask"}
    wrong = []
    for path in package.rglob("*.py"):
        file = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in {"print", "input", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc"}:
                    wrong += [f"{file}: {name}"] * (file not in {"core/console.py", "cli/main.py"})
                if name in {f"console.{each}" for each in results}:
                    wrong += [f"{file}: {name}"] * (not file.startswith("cli/"))
            elif isinstance(node, ast.ImportFrom) and node.module == "gpt4image.core.console":
                taken = results.intersection(name.name for name in node.names)
                wrong += [f"{file}: {taken}"] * (bool(taken) and not file.startswith("cli/"))
    assert wrong == []


def test_level_of_a_note_follows_its_style():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("gpt4image").addHandler(handler)
    for style in console.LEVELS:
        console.say("100% of a note", style)
    assert [record.levelno for record in records] == [logging.INFO, logging.WARNING, logging.ERROR]
    assert {record.getMessage() for record in records} == {"100% of a note"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_and_notes_of_progress_are_never_cut(monkeypatch, width):
    stream = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=stream, force_terminal=True, width=width, highlight=False))
    note = "3.4/s 12.3M tok $1,012.34 3 failed, waits 54.0 s as asked"
    with (
        console.progress("All 12 runs", 12),
        console.progress("Run of described+text, seed 3", 1234567) as meter,
    ):
        meter.set(123456)
        meter.note(note)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "123456/1234567" in shown and "…" not in shown
    assert all(len(line) <= width for part in shown.split("\r") for line in part.splitlines())
    (line,) = [line for line in shown.split("\n") if "123456/" in line][-1:]
    words = set(shown.split())
    assert set(note.split()) <= words and "-:--:--" in line


def test_progress_turned_off_draws_nothing_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True))
    monkeypatch.setattr(console, "_output", console.Output())
    console.show_progress(False)
    with console.progress("Train", 2) as meter, console.doing("Thinking"):
        meter.advance(2)
    assert [line for line in screen.getvalue().splitlines() if "%" in line or "━" in line] == []
    console.show_progress(True)
    with console.progress("Train", 2) as meter:
        meter.advance(2)
    assert "Train" in screen.getvalue()
